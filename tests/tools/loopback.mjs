// Loaded before a Flue server, which would listen on all interfaces: a server of a test is for this host alone, and ends
// with whoever started it. CLOCK_RATE: how many times as fast its timers run, of which some take 30 s.
import net from "node:net"

const listen = net.Server.prototype.listen
net.Server.prototype.listen = function (port, ...more) {
  return listen.call(this, port, "127.0.0.1", ...more.filter((argument) => typeof argument === "function"))
}

process.stdin.resume().once("end", () => process.exit(1))

const rate = Number(process.env.CLOCK_RATE ?? 1)
const { setTimeout } = globalThis
if (rate !== 1) globalThis.setTimeout = (callback, ms, ...more) => setTimeout(callback, ms / rate, ...more)
