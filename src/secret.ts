/**
 * A value that must not be shown. Printing, logging, inspecting or serialising a Secret gives `[secret]`;
 * only reveal() gives the value, so every place that uses one can be found by that word.
 */
import { inspect } from 'node:util'

export class Secret<T> {
  readonly #value: T

  constructor(value: T) {
    this.#value = value
  }

  reveal(): T {
    return this.#value
  }

  toString(): string {
    return '[secret]'
  }

  toJSON(): string {
    return '[secret]'
  }

  [inspect.custom](): string {
    return '[secret]'
  }
}
