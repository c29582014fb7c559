// One call: microphone, offer, answer, and what becomes of it. Nothing here touches the page.

const CALLS = "/v1/realtime/calls";
const EVENTS = "oai-events"; // the channel that carries events of the Realtime API, by its usual name
const CONNECT_SECONDS = 12;
const RECOVERY_SECONDS = 8; // a lost path may come back; the server gives up later than this

/** A problem that is told to the person. `code` is the server's, where it has refused something. */
export class CallError extends Error {
  constructor(message, code = null) {
    super(message);
    this.code = code;
  }
}

/**
 * Fires `state` when `state` changes (microphone, connecting, connected, reconnecting, ended), `track` when
 * `remoteStream` has the voice, `event` with the server's event as `detail`, and at the end `ended` with `detail.error`: a CallError, or null where one side hung up.
 */
export class Call extends EventTarget {
  state = "idle";
  peerConnection = null;
  dataChannel = null;
  localStream = null;
  remoteStream = new MediaStream();
  location = null;
  #key;
  #timer = 0;
  #overThere = false;

  constructor(key) {
    super();
    this.#key = key;
  }

  get id() {
    return this.location?.split("/").pop() ?? null;
  }

  /** Set the call up; `processing` is whether the browser may cancel echo and noise, `model` names the backend. */
  async start({ processing = true, model = null } = {}) {
    try {
      this.#become("microphone");
      this.localStream = await openMicrophone(processing);
      if (this.state === "ended") return stopTracks(this.localStream);
      this.#become("connecting");
      await this.#connect(model);
    } catch (error) {
      this.#finish(error instanceof CallError ? error : new CallError(`The call failed: ${error.message}`));
    }
  }

  hangUp() {
    this.#finish(null);
  }

  /** Return `{roundTrip, lost}`: seconds, and packets of the voice that did not arrive; null where unknown. */
  async figures() {
    const figures = { roundTrip: null, lost: null };
    const report = await this.peerConnection?.getStats();
    report?.forEach((item) => {
      if (item.type === "candidate-pair" && item.nominated && item.currentRoundTripTime !== undefined) {
        figures.roundTrip = item.currentRoundTripTime;
      } else if (item.type === "inbound-rtp" && item.kind === "audio") {
        figures.lost = item.packetsLost;
      }
    });
    return figures;
  }

  /** Find a path anew, with other ICE credentials (RFC 9725); keys and conversation stay. */
  async restartIce() {
    const connection = this.peerConnection;
    const { sdp } = connection.remoteDescription;
    connection.restartIce();
    await connection.setLocalDescription();
    const response = await this.#fetch(this.location, {
      method: "PATCH",
      headers: { "Content-Type": "application/trickle-ice-sdpfrag", "If-Match": "*" },
      body: linesOf(connection.localDescription.sdp, /^(m=audio|a=mid:|a=ice-(ufrag|pwd):)/),
    });
    const fragment = await response.text();
    const renewed = ["a=ice-ufrag:", "a=ice-pwd:"].reduce(
      (text, name) => text.replace(new RegExp(`^${name}.*$`, "gm"), linesOf(fragment, new RegExp(`^${name}`)).trim()),
      sdp,
    );
    await connection.setRemoteDescription({ type: "answer", sdp: renewed });
  }

  async #connect(model) {
    const connection = new RTCPeerConnection({ bundlePolicy: "max-bundle", rtcpMuxPolicy: "require" });
    this.peerConnection = connection;
    connection.addEventListener("track", ({ track }) => {
      this.remoteStream.addTrack(track);
      this.dispatchEvent(new Event("track"));
    });
    connection.addEventListener("connectionstatechange", () => this.#follow(connection.connectionState));
    for (const track of this.localStream.getAudioTracks()) {
      track.addEventListener("ended", () => this.#finish(new CallError("The microphone was taken away.")));
      connection.addTrack(track, this.localStream);
    }
    connection.getTransceivers().forEach(preferRepetition);
    this.dataChannel = connection.createDataChannel(EVENTS);
    this.dataChannel.addEventListener("message", ({ data }) => {
      this.dispatchEvent(new CustomEvent("event", { detail: JSON.parse(data) }));
    });
    await connection.setLocalDescription();
    const answer = await this.#exchange(connection.localDescription.sdp, model);
    if (this.state === "ended") return this.#release();
    await connection.setRemoteDescription({ type: "answer", sdp: answer });
    const transport = connection.getSenders()[0]?.transport;
    transport?.addEventListener("statechange", () => transport.state === "closed" && this.#endedThere());
    this.#wait(CONNECT_SECONDS, () => this.#finish(noMedia(answer)));
  }

  async #exchange(offer, model) {
    const url = model ? `${CALLS}?model=${encodeURIComponent(model)}` : CALLS;
    const response = await this.#fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/sdp" },
      body: offer,
    });
    this.location = response.headers.get("Location");
    return response.text();
  }

  async #fetch(url, options) {
    const headers = { ...options.headers, ...(this.#key && { Authorization: `Bearer ${this.#key}` }) };
    let response;
    try {
      response = await fetch(url, { ...options, headers });
    } catch {
      throw new CallError("The server cannot be reached. Is it still running?");
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }

  #follow(connectionState) {
    if (connectionState === "connected") {
      clearTimeout(this.#timer);
      this.#become("connected");
    } else if (connectionState === "disconnected" && this.state === "connected") {
      this.#become("reconnecting");
      this.#wait(RECOVERY_SECONDS, () => this.#lost());
      this.restartIce().catch(() => {}); // without it the old path may still come back
    } else if (connectionState === "failed") {
      this.#lost();
    }
  }

  #lost() {
    const neverConnected = this.state === "connecting";
    const sdp = this.peerConnection?.remoteDescription?.sdp ?? "";
    this.#finish(neverConnected ? noMedia(sdp) : new CallError("The connection was lost."));
  }

  /** The server closed the connection: ask it why. */
  async #endedThere() {
    if (this.state === "ended") return;
    this.#overThere = true;
    let reason = "hangup";
    try {
      reason = (await (await this.#fetch(`${this.location}/stats`, { method: "GET" })).json()).reason;
    } catch {
      // it is over anyway
    }
    const plain = ORDINARY_ENDS.has(reason) ? null : END_PROBLEMS[reason] ?? `The server ended the call: ${reason}.`;
    this.#finish(plain && new CallError(plain));
  }

  #wait(seconds, then) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(then, seconds * 1000);
  }

  #become(state) {
    if (this.state === "ended" || this.state === state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }

  #finish(error) {
    if (this.state === "ended") return;
    clearTimeout(this.#timer);
    this.#become("ended");
    this.#release();
    this.dispatchEvent(new CustomEvent("ended", { detail: { error } }));
  }

  /** Be silent at once, and tell the server before the connection closes, so that it knows that this was meant. */
  async #release() {
    if (this.localStream) stopTracks(this.localStream);
    if (this.location && !this.#overThere) {
      await this.#fetch(this.location, { method: "DELETE", keepalive: true }).catch(() => {});
    }
    this.peerConnection?.close();
  }
}

/** Return the first of the lines that match, by what comes before their value. */
function linesOf(sdp, pattern) {
  const lines = new Map();
  for (const line of sdp.split(/\r?\n/)) {
    const [start] = line.match(pattern) ?? [];
    if (start && !lines.has(start)) lines.set(start, line);
  }
  return [...lines.values(), ""].join("\r\n");
}

async function openMicrophone(processing) {
  if (!window.isSecureContext || !navigator.mediaDevices) {
    throw new CallError(
      "Browsers open the microphone only on https:// pages and on localhost. " +
        "Start the server with --tls self-signed and open this page with https://.",
    );
  }
  const audio = {
    channelCount: 1,
    echoCancellation: processing,
    noiseSuppression: processing,
    autoGainControl: processing,
  };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new CallError(MICROPHONE_PROBLEMS[error.name] ?? `The microphone could not be opened: ${error.message}`);
  }
}

const ORDINARY_ENDS = new Set(["hangup", "close_notify", "backend_ended"]);

const END_PROBLEMS = {
  backend_refused: "The voice behind this server did not take the call.",
  backend_lost: "The voice behind this server was lost.",
  backend_error: "The voice behind this server made a mistake, so the call ended.",
  over_budget: "This call sent more than one call may.",
  internal_error: "Something went wrong in the server; its log has the details.",
  drained: "The server was being replaced. Call again.",
  shutdown: "The server is shutting down.",
};

const MICROPHONE_PROBLEMS = {
  NotAllowedError: "This page may not use the microphone. Allow it beside the address bar, then try again.",
  NotFoundError: "No microphone was found. Plug one in, then try again.",
  NotReadableError: "The microphone is in use by another program, or broken.",
};

/** Ask for RED (RFC 2198) first: then each packet of ours carries the one before it too, so that one lost is not missed. */
function preferRepetition(transceiver) {
  const codecs = RTCRtpReceiver.getCapabilities?.("audio")?.codecs ?? [];
  const repeats = ({ mimeType }) => mimeType.toLowerCase() === "audio/red";
  if (!codecs.some(repeats)) return;
  transceiver.setCodecPreferences?.([...codecs.filter(repeats), ...codecs.filter((codec) => !repeats(codec))]);
}

function stopTracks(stream) {
  for (const track of stream.getTracks()) track.stop();
}

async function refusal(response) {
  let error = { message: `The server answered ${response.status}.`, code: null };
  try {
    ({ error } = await response.json());
  } catch {
    // not one of our errors: a proxy's, perhaps
  }
  const { code } = error;
  if (response.status === 503) {
    const seconds = response.headers.get("Retry-After");
    return new CallError(`The server is busy: ${error.message}${seconds ? ` (wait ${seconds} s)` : ""}.`, code);
  }
  return new CallError(sentence(error.message), code);
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
}

/** The call was answered but no packet got through: say which way must be open. */
function noMedia(answer) {
  const candidates = [...answer.matchAll(/^a=candidate:\S+ 1 udp \d+ (\S+) (\d+)/gim)];
  const ways = candidates.map(([, host, port]) => (host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`));
  return new CallError(
    `The call was answered, but no audio got through. A firewall may block UDP to ${ways.join(" and ") || "the server"}.`,
  );
}
