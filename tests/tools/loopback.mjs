// Loaded before a Flue server, which would listen on all interfaces: a server of a test is for this host alone, and ends
// with whoever started it. CLOCK_RATE: how many times as fast its time-outs run, of which some take 30 s. INTERVAL_RATE:
// the same for what it does again and again, such as renewing a lease each 10 s.
import net from "node:net"

const listen = net.Server.prototype.listen
net.Server.prototype.listen = function (port, ...more) {
  return listen.call(this, port, "127.0.0.1", ...more.filter((argument) => typeof argument === "function"))
}

process.stdin.resume().once("end", () => process.exit(1))

for (const [name, rate] of [["setTimeout", process.env.CLOCK_RATE], ["setInterval", process.env.INTERVAL_RATE]]) {
  const original = globalThis[name]
  if (Number(rate ?? 1) !== 1) globalThis[name] = (callback, ms, ...more) => original(callback, ms / rate, ...more)
}
