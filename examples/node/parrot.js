// A backend that says back what the caller says, written from docs/reference/backend-protocol.md.
// npm install && node parrot.js 9000
import { decode, encode } from "@msgpack/msgpack";
import { WebSocketServer } from "ws";

const HELLO = 1, STARTED = 2, ACCEPTED = 3, REFUSED = 4, ENDED = 5, AUDIO = 6, CREDIT = 7;
const RESPONSE_STARTED = 10, DRAIN = 13, PING = 14, PONG = 15;
const SLOTS = 100, SAMPLES_PER_MS = 24, RESPONSE = 1;

let taken = 0;
const server = new WebSocketServer({ host: "127.0.0.1", port: process.argv[2] ?? 9000, maxPayload: 1 << 20 });
server.on("listening", () => console.log(`ready ws://127.0.0.1:${server.address().port}`));

server.on("connection", (socket) => {
  const credit = new Map(); // milliseconds, by call
  let unanswered = 0;
  const send = (...frames) => socket.send(encode(frames));
  const receive = {
    [STARTED](call) {
      if (taken >= SLOTS) return send([REFUSED, call, "full"]);
      taken++;
      credit.set(call, 0);
      send([ACCEPTED, call], [RESPONSE_STARTED, call, RESPONSE]);
    },
    [CREDIT](call, ms) {
      if (credit.has(call)) credit.set(call, credit.get(call) + ms);
    },
    [AUDIO](call, data) {
      const left = credit.get(call) - data.length / 2 / SAMPLES_PER_MS;
      if (!(left >= 0)) return; // over, or further ahead of the caller than is allowed
      credit.set(call, left);
      send([AUDIO, call, data, 0, 0, RESPONSE]);
    },
    [ENDED](call) {
      if (credit.delete(call)) taken--;
    },
    [PING]: (number) => send([PONG, number]),
  };
  socket.on("message", (message, isBinary) => {
    unanswered = 0;
    if (isBinary) for (const [tag, ...fields] of decode(message)) receive[tag]?.(...fields);
  });
  const heartbeat = setInterval(() => (++unanswered > 3 ? socket.terminate() : send([PING, 0])), 1000);
  socket.on("close", () => {
    clearInterval(heartbeat);
    taken -= credit.size;
  });
  send([HELLO, 1, SLOTS, ["pcm16/24000"]]);
});

process.once("SIGINT", () => process.exit());
process.once("SIGTERM", () => {
  for (const socket of server.clients) socket.send(encode([[DRAIN]]));
  setInterval(() => taken || process.exit(), 100);
});
