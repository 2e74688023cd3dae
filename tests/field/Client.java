import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/** What the JDK's own HttpClient sends by default: each request to a plain address asks for h2c. */
public class Client {
    static String base;
    static String answer;

    static int ask(String method, String path, BodyPublisher body) throws Exception {
        // Another client each time: one that has been answered in HTTP/1.1 does not ask again.
        HttpRequest request = HttpRequest.newBuilder(URI.create(base + path))
            .header("Content-Type", "application/json").method(method, body).build();
        var response = HttpClient.newHttpClient().send(request, BodyHandlers.ofString());
        answer = response.body();
        return response.statusCode();
    }

    static BodyPublisher text(String text) {
        return BodyPublishers.ofString(text);
    }

    public static void main(String[] arguments) throws Exception {
        base = arguments[0];
        String run = "/runs/" + arguments[1];
        System.out.println("PUT " + ask("PUT", run, text("[{\"n\":0}]")));
        System.out.println("POST " + ask("POST", run, text("{\"n\":1}")));
        // In chunks, as a body whose length is not known.
        System.out.println("POST " + ask("POST", run, BodyPublishers.fromPublisher(text("{\"type\":\"run_end\"}"))));
        System.out.println("cancel " + ask("POST", run + "/cancel", text("{\"reason\":\"enough\"}")));
        System.out.println("run " + ask("POST", "/runs", text("{\"id\":\"" + arguments[1] + "-2\"}")));
        System.out.println("GET " + ask("GET", run, BodyPublishers.noBody()) + " " + answer);
        System.out.println("control " + ask("GET", run + "/control", BodyPublishers.noBody()) + " " + answer.contains("enough"));
        int status = ask("GET", run + "-2?meta", BodyPublishers.noBody());
        System.out.println("meta " + status + " " + answer.replaceFirst(".*\"runId\":\"([^\"]*)\".*", "$1"));
        System.out.println("app " + ask("POST", "/app", text("echo")) + " " + answer);
    }
}
