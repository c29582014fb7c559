// One call: microphone, offer, answer, and what becomes of it. Nothing here touches the page.

const CALLS = "/v1/realtime/calls";
const CONNECT_SECONDS = 12;
const RECOVERY_SECONDS = 8; // a lost path may come back; the server gives up later than this

/** A problem that is told to the person. `status` is that of an HTTP answer. */
export class CallError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/**
 * Fires `state` when `state` changes (microphone, connecting, connected, reconnecting, ended), `track` when
 * `remoteStream` has the voice, and at the end `ended` with `detail.error`: a CallError, or null where one side hung up.
 */
export class Call extends EventTarget {
  state = "idle";
  peerConnection = null;
  localStream = null;
  remoteStream = new MediaStream();
  location = null;
  #key;
  #timer = 0;

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
    let reason = null;
    try {
      reason = (await (await this.#fetch(`${this.location}/stats`, { method: "GET" })).json()).reason;
    } catch {
      // it is over anyway
    }
    this.#finish(reason && !/hang|hung|ended/i.test(reason) ? new CallError(`The call ended: ${reason}.`) : null);
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

  #release() {
    this.peerConnection?.close();
    if (this.localStream) stopTracks(this.localStream);
    if (this.location) this.#fetch(this.location, { method: "DELETE", keepalive: true }).catch(() => {});
  }
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

const MICROPHONE_PROBLEMS = {
  NotAllowedError: "This page may not use the microphone. Allow it beside the address bar, then try again.",
  NotFoundError: "No microphone was found. Plug one in, then try again.",
  NotReadableError: "The microphone is in use by another program, or broken.",
};

function stopTracks(stream) {
  for (const track of stream.getTracks()) track.stop();
}

async function refusal(response) {
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // not one of our errors: a proxy's, perhaps
  }
  if (response.status === 503) {
    const seconds = response.headers.get("Retry-After");
    message = `The server is busy: ${message}${seconds ? ` (wait ${seconds} s)` : ""}`;
  }
  return new CallError(message, response.status);
}

/** The call was answered but no packet got through: say which way must be open. */
function noMedia(answer) {
  const candidates = [...answer.matchAll(/^a=candidate:\S+ 1 udp \d+ (\S+) (\d+)/gim)];
  const ways = candidates.map(([, host, port]) => (host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`));
  return new CallError(
    `The call was answered, but no audio got through. A firewall may block UDP to ${ways.join(" and ") || "the server"}.`,
  );
}
