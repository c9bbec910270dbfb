// An app with both models, which asks again and again about one picture, of which its phone is never sure. Each line of
// its output is an answer: `node app.mjs CLIENT URL DATASET TOKEN PNG`, the last one in base64.

const [client, url, dataset, token, picture] = process.argv.slice(2);
const {Breaker, Router, gateway} = await import(client);

const png = Buffer.from(picture, 'base64');
const router = new Router({
  phone: () => ({label: 'phone', confidence: 0.1, modelVersion: 'v'}),
  cloud: gateway({url, dataset, headers: () => ({'X-Firebase-AppCheck': token})}),
  policy: {threshold: 0.5},
  breaker: new Breaker({seconds: 0.2, longest: 0.2}),
});

for (;;) {
  const answer = await router.classify({png: () => png}).catch((error) => ({failed: String(error)}));
  console.log(JSON.stringify(answer));
  await new Promise((resolve) => { setTimeout(resolve, 20); });
}
