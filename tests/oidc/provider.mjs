// A certified provider of OpenID Connect (npm: oidc-provider) over HTTPS on a port of its own, for tests.
//
// Arguments: directory of its modules, certificate and key in PEM, client's secret, where browsers are sent back to, and `token` or
// `userinfo`: which of them tells name and groups.
// The first line of its output is its address. Whoever logs in as `ann` is `ann`, in the group `ops`.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [modules, cert, key, secret, callback, teller] = process.argv.slice(2);
const found = createRequire(`${modules}/package.json`).resolve('oidc-provider');
const { default: Provider } = await import(pathToFileURL(found));

const person = (id) => ({
  accountId: id,
  claims: () => ({ sub: id, preferred_username: id, groups: ['ops'] }),
});

const server = createServer({ cert: readFileSync(cert), key: readFileSync(key) });
server.listen(0, '127.0.0.1', () => {
  const issuer = `https://localhost:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{
      client_id: 'milecastle',
      client_secret: secret,
      redirect_uris: [callback],
      post_logout_redirect_uris: [new URL('/', callback).href],
    }],
    pkce: { required: () => true },
    claims: { openid: ['sub'], profile: ['preferred_username', 'groups'], email: ['email'] },
    conformIdTokenClaims: teller === 'userinfo',
    cookies: { keys: ['of a test'] },
    findAccount: (_, id) => person(id),
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
