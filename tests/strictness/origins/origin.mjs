// An origin on Node's http: says on standard output how it has read each request, and answers 200.

import { createServer } from "node:http";

const utf8 = (latin1) => Buffer.from(latin1, "latin1").toString("utf8");

// As decodeURIComponent, but bytes that are no UTF-8 are replaced and not refused.
const decode = (path) =>
  utf8(Buffer.from(path).toString("latin1").replace(/%(..)/g, (_, digits) => String.fromCharCode(parseInt(digits, 16))));

const server = createServer((request, response) => {
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => {
    const target = utf8(request.url);
    const seen = {
      method: request.method,
      target,
      // As most programs on Node work out the path.
      path: decode(new URL(`http://origin.test${target}`).pathname),
      host: request.headers.host ?? "",
      body: Buffer.concat(pieces).toString("utf8"),
    };
    console.log(`seen ${JSON.stringify(seen)}`);
    response.writeHead(200, { "Content-Length": "2" });
    response.end(request.method === "HEAD" ? "" : "ok");
  });
});

server.listen(0, "127.0.0.1", () => console.log(`listening on ${server.address().port}`));
