// Loaded before a Flue server, which would listen on all interfaces: a server of a test is for this host alone.
import net from "node:net"

const listen = net.Server.prototype.listen
net.Server.prototype.listen = function (port, ...more) {
  return listen.call(this, port, "127.0.0.1", ...more.filter((argument) => typeof argument === "function"))
}
