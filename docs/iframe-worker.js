// Pages that a browser reads from a file may start no worker, and the search is one. Here a frame does its work.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.waiting = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      // The frame has no messages of its own: its program hears what we dispatch, and its postMessage is this worker's.
      frame.srcdoc = "<script>postMessage = data => frameElement.heard(data)<\/script>" +
        `<script src="${encodeURI(url)}"><\/script>`
      frame.heard = data => this.dispatchEvent(new MessageEvent("message", { data }))
      frame.onload = () => {
        this.frame = frame
        this.waiting.forEach(data => this.postMessage(data))
      }
      document.body.appendChild(frame)
    }
    postMessage(data) {
      if (this.frame) this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }))
      else this.waiting.push(data)
    }
    terminate() {
      if (this.frame) this.frame.remove()
    }
  }
}
