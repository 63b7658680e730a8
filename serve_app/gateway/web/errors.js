/** The doors' error codes in plain words: a title, and what to do. */

/** @type {Record<string, [string, string]>} */
const WORDS = {
  WS_1001: ["The session has ended", "A new one is being opened."],
  WS_1002: ["The server could not read a message", "Reload the page; it may be older than the server."],
  WS_1003: ["The server missed a field in a message", "Reload the page; it may be older than the server."],
  RTC_2001: ["The server could not use this browser's offer", "Use a browser that receives H.264 or VP8 video."],
  AUDIO_3001: ["The server could not use this sound", "Use WAV, or another file the browser can play."],
  AUDIO_3002: ["The sound is too short", "Speak for at least a second."],
  GEN_4001: ["The face could not follow this speech", "The sound plays on. Try again; the server's log says more."],
  GEN_4002: ["The avatar's model is not running", "Wait a moment and try again; it may still be starting."],
  SRV_5002: ["The avatar has too much left to say", "Wait until it has spoken, or interrupt it."],
  SRV_5003: ["This page may not open a session here", "Open it from the server's own address."],
  origin_not_allowed: ["This page may not open a call here", "Open it from the server's own address."],
  insufficient_quota: ["The key's minutes are used up", "Ask whoever runs the server for more, or wait for the next day."],
  rate_limit_exceeded: ["The key has no call left", "End another call of it, or wait a moment."],
  session_limit_reached: ["The server is full", "Wait a moment and call again."],
  avatar_not_found: ["There is no such avatar", "Choose another."],
  model_not_found: ["The avatar's model is not running", "Wait a moment and call again; it may still be starting."],
  invalid_offer: ["The server could not use this browser's offer", "Use a browser that receives H.264 or VP8 video."],
  session_expired: ["The call's time is over", "Call again to go on."],
  input_audio_buffer_commit_empty: ["Nothing was heard", "Hold the button while you speak."],
  agent_failed: ["The agent could not answer", "Say it again; the server's log says more."],
};

/**
 * @param {string} code
 * @param {string} text the server's own sentence
 * @returns {{title: string, text: string}}
 */
export function inWords(code, text) {
  const [title, remedy] = WORDS[code] ?? ["The server reports a problem", ""];
  return { title, text: [text, remedy].filter(Boolean).join(" ") };
}
