// The page around a call. `?processing=off` leaves the microphone's sound as it is, `?model=` chooses the backend.
// Programs that drive the page find the running call in `window.antiphon`.

import { Call } from "/call.js";
import { LevelMeter } from "/meter.js";

const KEY = "antiphon-key";
const FIGURES_MILLISECONDS = 1000;
const LOGGED_EVENTS = 50;
const WORDS = {
  microphone: "Opening the microphone …",
  connecting: "Connecting …",
  connected: "Connected. Say something.",
  reconnecting: "The connection falters; trying to get it back …",
};

const element = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);

let call = null;
let context = null;
let meters = [];
let connectedAt = 0;
let figuresTimer = 0;

window.antiphon = {
  start,
  hangUp: () => call?.hangUp(),
  restartIce: () => call?.restartIce(),
  get state() {
    return call?.state ?? "idle";
  },
  get callId() {
    return call?.id ?? null;
  },
  get peerConnection() {
    return call?.peerConnection ?? null;
  },
  get dataChannel() {
    return call?.dataChannel ?? null;
  },
  get localStream() {
    return call?.localStream ?? null;
  },
  get remoteStream() {
    return call?.remoteStream ?? null;
  },
};

takeKeyFromAddress();
element("talk").addEventListener("click", () => (isRunning() ? call.hangUp() : start()));
element("key-form").addEventListener("submit", useKey);
window.addEventListener("pagehide", () => call?.hangUp());

function isRunning() {
  return call !== null && call.state !== "ended";
}

/** Start a call, unless one is running; resolves when it was set up or has failed. */
async function start() {
  if (isRunning()) return;
  showProblem("");
  element("key-form").hidden = true;
  context ??= new AudioContext();
  context.resume();
  call = new Call(sessionStorage.getItem(KEY));
  call.addEventListener("state", showState);
  call.addEventListener("ended", showEnd);
  call.addEventListener("track", listen);
  call.addEventListener("event", logEvent);
  element("event-log").replaceChildren();
  const starting = call.start({ processing: query.get("processing") !== "off", model: query.get("model") });
  figuresTimer = setInterval(showFigures, FIGURES_MILLISECONDS);
  await starting;
  if (isRunning()) {
    listen();
    requestAnimationFrame(showLevels);
  }
}

function listen() {
  for (const { meter } of meters) meter.close();
  const heard = [
    ["local", call.localStream],
    ["remote", call.remoteStream],
  ].filter(([, stream]) => stream?.getAudioTracks().length);
  meters = heard.map(([name, stream]) => ({ name, meter: new LevelMeter(context, stream) }));
  element("voice").srcObject = call.remoteStream;
}

function showState() {
  const { state } = call;
  element("stage").dataset.state = { connected: "connected", ended: "idle" }[state] ?? "connecting";
  element("talk-label").textContent = state === "ended" ? "Talk" : "Hang up";
  if (state === "connected") connectedAt ||= performance.now();
  if (WORDS[state]) element("state").textContent = WORDS[state];
}

function showEnd({ detail: { error } }) {
  clearInterval(figuresTimer);
  for (const { meter } of meters) meter.close();
  meters = [];
  connectedAt = 0;
  element("voice").srcObject = null;
  for (const name of ["local", "remote"]) showLevel(name, 0);
  element("state").textContent = error ? "There is no call." : "The call has ended.";
  if (error?.code === "invalid_api_key") askForKey();
  else if (error) showProblem(error.message);
}

/** Keep the last events of the server; the panel is there once there was one. */
function logEvent({ detail: event }) {
  const log = element("event-log");
  const line = document.createElement("li");
  line.textContent = JSON.stringify(event);
  log.append(line);
  if (log.childElementCount > LOGGED_EVENTS) log.firstElementChild.remove();
  element("events").hidden = false;
}

function showProblem(text) {
  element("problem").textContent = text;
  element("problem").hidden = !text;
}

function showLevels() {
  for (const { name, meter } of meters) showLevel(name, meter.read());
  if (isRunning()) requestAnimationFrame(showLevels);
}

function showLevel(name, level) {
  document.documentElement.style.setProperty(`--${name}`, level.toFixed(3));
  element(`${name}-level`).setAttribute("aria-valuenow", Math.round(level * 100));
}

async function showFigures() {
  const { roundTrip, lost } = await call.figures();
  element("round-trip").textContent = roundTrip === null ? "–" : `${Math.round(roundTrip * 1000)} ms`;
  element("lost").textContent = lost ?? "–";
  if (!connectedAt) return;
  const seconds = Math.floor((performance.now() - connectedAt) / 1000);
  element("duration").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

/** The address printed at start carries the key behind `#key=`; it does not stay there to be copied along. */
function takeKeyFromAddress() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!key) return;
  sessionStorage.setItem(KEY, key);
  history.replaceState(null, "", location.pathname + location.search);
}

function askForKey() {
  const known = sessionStorage.getItem(KEY) !== null;
  showProblem(known ? "The server did not take this API key." : "This server asks for an API key.");
  sessionStorage.removeItem(KEY);
  element("key-form").hidden = false;
  element("key").focus();
}

function useKey(event) {
  event.preventDefault();
  sessionStorage.setItem(KEY, element("key").value.trim());
  element("key").value = "";
  start();
}
