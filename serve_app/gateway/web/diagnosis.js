/**
 * What went wrong with the media, for a person: what happened, why, and what to do.
 */

/**
 * @typedef {object} Diagnosis
 * @property {string} title
 * @property {string} why
 * @property {string[]} remedies
 *
 * @typedef {object} Findings
 * @property {"no-answer" | "no-path" | "lost" | "no-media" | "no-webrtc"} reason
 * @property {string} [serverDetail] the server's own sentence
 * @property {boolean} hasTurn whether a TURN server is configured
 * @property {boolean} hasLocalCandidates whether this browser found any address of its own
 * @property {boolean} hasRemoteCandidates whether the server offered any address
 * @property {boolean} isLocalhost whether the page came from this machine
 * @property {boolean} isSecure whether the page is on HTTPS or localhost
 */

const TURN_MISSING =
  "On other networks, configure a TURN server (ice.servers in the server's configuration); none is set now.";
const TURN_UNREACHABLE = "A TURN server is configured: check that it runs, that its password is right, and that port 3478 or 443 is open.";
const OPEN_UDP = "Open the server's UDP ports (ice.udp_port_range) in its firewall and container, and allow outgoing UDP here.";
const PUBLIC_ADDRESS = "If the server is behind NAT or in a container, set ice.public_address to the address that clients reach.";
const LOOPBACK = "On this same machine, switch on ice.loopback in the server's configuration, or check that no VPN takes over the route.";
const USE_HTTPS = "Open the page over HTTPS: some browsers and company networks hold WebRTC back on plain HTTP.";

/**
 * @param {Findings} findings
 * @returns {Diagnosis}
 */
export function diagnose(findings) {
  const { title, why } = explanation(findings);
  return { title, why: findings.serverDetail || why, remedies: remedies(findings) };
}

/** @param {Findings} findings */
function explanation({ reason, hasLocalCandidates, hasRemoteCandidates }) {
  switch (reason) {
    case "no-webrtc":
      return { title: "This browser has no WebRTC", why: "The picture comes over WebRTC, and this browser lacks it or has it switched off." };
    case "no-answer":
      return { title: "The server did not answer the call", why: "The offer was sent, and no answer has come." };
    case "no-media":
      return { title: "Connected, but no picture arrives", why: "A network path was found, yet no frame of the picture has come through it." };
    case "lost":
      return { title: "The picture was cut off", why: "The network path worked and then fell silent." };
    default:
      break;
  }
  const title = "No network path for the picture";
  if (!hasLocalCandidates) return { title, why: "This browser found no network address of its own to receive media on." };
  if (!hasRemoteCandidates) return { title, why: "The server offered no address at which it can be reached." };
  return { title, why: "The page reaches the server, but none of the UDP paths between them carried a packet both ways." };
}

/** @param {Findings} findings */
function remedies({ reason, hasTurn, hasLocalCandidates, isLocalhost, isSecure }) {
  if (reason === "no-webrtc") return ["Use a current Chrome, Edge, Firefox or Safari, without extensions that block WebRTC."];
  if (reason === "no-answer") return ["Look at the server's log for this session.", "Try again; the page keeps the session."];
  if (reason === "no-media") {
    return ["Look at the server's log for this session: its host may be overloaded.", OPEN_UDP, "Try again; the page keeps the session."];
  }
  const steps = [];
  if (!hasLocalCandidates) steps.push("Switch off extensions and VPN settings that hide or block WebRTC addresses.");
  if (isLocalhost) steps.push(LOOPBACK);
  steps.push(OPEN_UDP);
  if (!isLocalhost) steps.push(PUBLIC_ADDRESS);
  steps.push(hasTurn ? TURN_UNREACHABLE : TURN_MISSING);
  if (!isSecure) steps.push(USE_HTTPS);
  return steps;
}
