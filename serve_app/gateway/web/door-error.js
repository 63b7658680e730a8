/** What a door answers over HTTP when it will not serve: OpenAI's error object, or no answer at all. */

/** The server did not serve a request. `message` is its own sentence. */
export class DoorError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, code?: string, retryAfterS?: number}} [facts] status 0: no answer came
   */
  constructor(message, { status = 0, code = "", retryAfterS = 0 } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }

  /**
   * @param {Response} response that is no success
   * @returns {Promise<DoorError>}
   */
  static async of(response) {
    const told = await response.json().catch(() => null);
    const message = told?.error?.message ?? `The server answered ${response.status}.`;
    const retryAfterS = Number(response.headers.get("retry-after")) || 0;
    return new DoorError(message, { status: response.status, code: told?.error?.code ?? "", retryAfterS });
  }
}
