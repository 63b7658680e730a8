/** Events of this page's own objects, which carry what they tell in `detail`. */

/**
 * @param {EventTarget} target
 * @param {string} name
 * @param {(detail: any) => void} handler
 */
export function on(target, name, handler) {
  target.addEventListener(name, (event) => handler(/** @type {CustomEvent} */ (event).detail ?? {}));
}

/**
 * @param {EventTarget} target
 * @param {string} name
 * @param {object} [detail]
 */
export function emit(target, name, detail = {}) {
  target.dispatchEvent(new CustomEvent(name, { detail }));
}
