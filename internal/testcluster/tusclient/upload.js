// Uploads a file with the stock tus client. Its options come as JSON in the
// first argument:
//
//	endpoint, file, name, blake3   what, and where to
//	store                          file that keeps the address for resuming
//	cutAt                          die, as by SIGKILL, after so many bytes; 0: do not
//	options                        further options of tus-js-client
//
// The token is in TOKEN. Prints {"url","first"}: where the upload is, and with
// how many bytes done this run began.
const fs = require('node:fs')
const tus = require('tus-js-client')

const o = JSON.parse(process.argv[2])
let first = -1
const upload = new tus.Upload(fs.createReadStream(o.file), {
  endpoint: o.endpoint,
  headers: { Authorization: `Bearer ${process.env.TOKEN}` },
  metadata: { filename: o.name, blake3: o.blake3 },
  urlStorage: new tus.FileUrlStorage(o.store),
  fingerprint: async () => o.name,
  retryDelays: [100, 500, 1000],
  ...o.options,
  onProgress(sent) {
    if (first < 0) first = sent
    if (o.cutAt && sent >= o.cutAt) process.kill(process.pid, 'SIGKILL')
  },
  onError(error) {
    console.error(String(error))
    process.exit(1)
  },
  onSuccess() {
    console.log(JSON.stringify({ url: upload.url, first }))
  },
})
upload.findPreviousUploads().then((previous) => {
  if (previous.length > 0) upload.resumeFromPreviousUpload(previous[0])
  upload.start()
})
