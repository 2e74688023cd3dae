import java.util.concurrent.TimeUnit;
import okhttp3.OkHttpClient;
import okhttp3.Request;

/** A run with OkHttp: java -cp okhttp.jar:okio.jar ReadOkHttp.java URL prints its events, one a line, to its end. */
public class ReadOkHttp {
    static String id = "";

    public static void main(String[] arguments) throws Exception {
        // By itself it gives up after 10 s of silence; and it would keep the process for a minute after the end.
        var client = new OkHttpClient.Builder().readTimeout(30, TimeUnit.SECONDS).build();
        while (true) {
            var request = new Request.Builder().url(arguments[0] + "?named=false").header("Accept", "text/event-stream");
            if (!id.isEmpty()) request.header("Last-Event-ID", id);
            try (var response = client.newCall(request.build()).execute()) {
                if (response.code() == 204 || ended(response.body().source())) System.exit(0);
            } catch (java.io.IOException lost) {
                // The connection was lost: the next one goes on behind the last event.
            }
            Thread.sleep(200);
        }
    }

    static boolean ended(okio.BufferedSource lines) throws java.io.IOException {
        String next = id, name = "", data = "", line;
        while ((line = lines.readUtf8Line()) != null) {
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
