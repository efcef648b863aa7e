// Posts a JSON text twice with fetch through undici's agent that heeds the environment, and prints the second answer.
import { EnvHttpProxyAgent, fetch, setGlobalDispatcher } from 'undici';

const [url, body] = process.argv.slice(2);
setGlobalDispatcher(new EnvHttpProxyAgent());
let text;
for (let n = 0; n < 2; n++) {
  const answer = await fetch(url, { method: 'POST', body, headers: { 'content-type': 'application/json' } });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  text = await answer.text();
}
process.stdout.write(text);
