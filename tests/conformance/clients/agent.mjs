// Posts a JSON text twice with Node's own https through an agent for proxies, and prints the second answer.
import { request } from 'node:https';
import { HttpsProxyAgent } from 'https-proxy-agent';

const [url, body] = process.argv.slice(2);
const agent = new HttpsProxyAgent(process.env.HTTPS_PROXY, { keepAlive: true });
const post = () =>
  new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
    const sent = request(url, { method: 'POST', agent, headers }, async (answer) => {
      if (answer.statusCode !== 200) return reject(new Error(`status ${answer.statusCode}`));
      let text = '';
      for await (const piece of answer) text += piece;
      resolve(text);
    });
    sent.on('error', reject).end(body);
  });
await post();
process.stdout.write(await post());
agent.destroy();
