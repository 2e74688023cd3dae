# A run with Ruby's standard library alone: ruby read.rb URL prints its events, one a line, to its end.
require "net/http"

$stdout.sync = true
uri = URI("#{ARGV[0]}?named=false")
at = nil
loop do
  frame = {}
  rest = String.new
  # By itself it would ask a second time, with the old Last-Event-ID: max_retries.
  Net::HTTP.start(uri.host, uri.port, read_timeout: 30, max_retries: 0) do |http|
    request = Net::HTTP::Get.new(uri, { "Accept" => "text/event-stream", "Last-Event-ID" => at }.compact)
    http.request(request) do |response|
      exit if response.code == "204" # it came back to the end
      response.read_body do |part|
        rest << part
        while (line = rest.slice!(/\A[^\n]*\n/))
          name, value = line.chomp.split(":", 2)
          next frame[name] = value.delete_prefix(" ") unless name.nil? || name.empty?
          next unless line == "\n" # a comment
          at = frame["id"] || at
          puts frame["data"] if frame["data"] && !frame["event"]
          exit if frame["event"] == "control" && frame["data"].include?('"streamClosed":true')
          frame = {}
        end
      end
    end
  end
rescue SystemCallError, IOError, Timeout::Error, Net::HTTPBadResponse
  # The connection was lost: the next one goes on behind the last event.
ensure
  sleep 0.2
end
