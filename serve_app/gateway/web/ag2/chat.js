/** The page: one button, one call, and what was said. */

const button = document.getElementById("call");
const status = document.getElementById("status");
const transcript = document.getElementById("transcript");

/** Beta events that say something, and who said it. */
const SPEAKERS = {
  "conversation.item.input_audio_transcription.completed": (event) => ["You", event.transcript],
  "response.audio_transcript.done": (event) => ["Avatar", event.transcript],
  "response.text.done": (event) => ["Avatar", event.text],
  "response.function_call_arguments.done": (event) => ["Function", `${event.name} ${event.arguments}`],
  error: (event) => ["Error", event.error?.message],
};

const token = takeToken();
/** @type {any} */
let call = null;

button.addEventListener("click", () => (call ? call.close() : start()));

async function start() {
  call = new globalThis.ag2client.WebRTC(socketAddress());
  call.onEvent = show;
  call.onDisconnect = () => {
    call = null;
    button.textContent = "Start talking";
    status.textContent = "The call has ended.";
  };
  button.textContent = "Hang up";
  status.textContent = "Connecting …";
  try {
    await call.connect();
    status.textContent = "Connected: speak.";
  } catch (error) {
    status.textContent = `No call: ${error.message}`;
  }
}

/** @param {any} event */
function show(event) {
  const [who, text] = SPEAKERS[event.type]?.(event) ?? [];
  if (!text) return;
  const line = document.createElement("li");
  const name = document.createElement("b");
  name.textContent = who;
  line.append(name, text);
  transcript.append(line);
}

function socketAddress() {
  const address = new URL("../session", location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  if (token) address.searchParams.set("token", token);
  return address.href;
}

/** A token in the address is kept for this tab and taken out of sight. */
function takeToken() {
  const address = new URL(location.href);
  const given = address.searchParams.get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    address.searchParams.delete("token");
    history.replaceState(null, "", address);
  }
  return given ?? sessionStorage.getItem("token");
}
