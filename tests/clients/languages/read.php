<?php
// A run with PHP's curl: php read.php URL prints its events, one a line, to its end.

$at = '';
$ended = false;
while (!$ended) {
    $rest = '';
    $frame = [];
    $curl = curl_init("$argv[1]?named=false");
    curl_setopt_array($curl, [
        CURLOPT_HTTPHEADER => array_merge(['Accept: text/event-stream'], $at === '' ? [] : ["Last-Event-ID: $at"]),
        CURLOPT_LOW_SPEED_LIMIT => 1,
        CURLOPT_LOW_SPEED_TIME => 30,
        CURLOPT_WRITEFUNCTION => function ($curl, string $part) use (&$rest, &$frame, &$at, &$ended): int {
            $lines = explode("\n", $rest . $part);
            $rest = array_pop($lines); // what has not come whole
            foreach ($lines as $line) {
                if ($line !== '') {
                    [$name, $value] = explode(':', $line, 2) + [1 => ''];
                    $frame[$name] = preg_replace('/^ /', '', $value);
                    continue;
                }
                $at = $frame['id'] ?? $at;
                if (isset($frame['data']) && !isset($frame['event'])) {
                    echo $frame['data'], "\n";
                }
                if (($frame['event'] ?? '') === 'control' && str_contains($frame['data'], '"streamClosed":true')) {
                    $ended = true;
                    return 0; // which ends the connection
                }
                $frame = [];
            }
            return strlen($part);
        },
    ]);
    curl_exec($curl);
    $ended = $ended || curl_getinfo($curl, CURLINFO_HTTP_CODE) === 204; // it came back to the end
    usleep(200_000); // a connection that was lost: the next one goes on behind the last event
}
