#!/usr/bin/env bash
# A run with curl and a shell: sh read.sh URL prints its events, one a line, to its end.
id=
while true; do
    while IFS= read -r line; do
        case $line in
            id:*) next=${line#id: } ;;
            event:*) name=${line#event: } ;;
            data:*) data=${line#data:} ;;
            status:204) exit ;; # it came back to the end
            "")
                if [ "${name:-}" = control ]; then
                    case ${data:-} in *'"streamClosed":true'*) exit ;; esac
                elif [ -n "${data:-}" ]; then
                    printf '%s\n' "$data"
                fi
                id=${next:-$id} name= data=
                ;;
        esac
    done < <(curl -sN --max-time 300 --speed-limit 1 --speed-time 30 -H 'Accept: text/event-stream' ${id:+-H "Last-Event-ID: $id"} -w '\nstatus:%{http_code}\n' "$1?named=false")
    sleep 0.2
done
