import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.Iterator;

/** A run with the JDK alone: java Read.java URL prints its events, one a line, to its end. */
public class Read {
    static String id = "";

    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        while (true) {
            var request = HttpRequest.newBuilder(URI.create(arguments[0] + "?named=false")).header("Accept", "text/event-stream");
            if (!id.isEmpty()) request.header("Last-Event-ID", id);
            try {
                var response = client.send(request.build(), BodyHandlers.ofLines());
                if (response.statusCode() == 204 || ended(response.body().iterator())) return;
            } catch (java.io.IOException | java.io.UncheckedIOException lost) {
                // The connection was lost: the next one goes on behind the last event.
            }
            Thread.sleep(200);
        }
    }

    static boolean ended(Iterator<String> lines) {
        String next = id, name = "", data = "";
        while (lines.hasNext()) {
            String line = lines.next();
            if (line.startsWith("id:")) next = line.substring(3).strip();
            else if (line.startsWith("event:")) name = line.substring(6).strip();
            else if (line.startsWith("data:")) data = line.substring(5);
            else if (line.isEmpty()) {
                id = next;
                if (name.equals("control") && data.contains("\"streamClosed\":true")) return true;
                if (name.isEmpty() && !data.isEmpty()) System.out.println(data);
                name = data = "";
            }
        }
        return false;
    }
}
