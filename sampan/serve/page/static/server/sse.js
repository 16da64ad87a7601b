// Reads server-sent events from the body of a response, as the HTML standard describes the format.

// A line that is longer comes from no server that means well.
const LONGEST_LINE = 8 * 1024 * 1024;

/** The data of each event of a ReadableStream of bytes, in order. */
export async function* readEvents(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  const lines = new Lines();
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      for (const line of lines.push(decoder.decode(value, { stream: true }))) {
        if (line === "") {
          if (data.length > 0) yield data.join("\n");
          data = [];
        } else if (line === "data" || line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    // Also when the consumer leaves: the server then stops the request.
    reader.cancel().catch(() => {});
  }
}

/** Cuts text that comes in pieces into lines, which end in LF, CR LF or CR. */
class Lines {
  #rest = "";
  #afterReturn = false;

  push(text) {
    let piece = text;
    if (this.#afterReturn && piece.startsWith("\n")) piece = piece.slice(1);
    if (piece) this.#afterReturn = piece.endsWith("\r");
    const lines = piece.split(/\r\n|\n|\r/);
    lines[0] = this.#rest + lines[0];
    this.#rest = lines.pop();
    if (this.#rest.length > LONGEST_LINE) throw new Error("an event of the answer has no end");
    return lines;
  }
}
