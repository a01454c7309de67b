// The client of the official TypeScript SDK v2: `client_v2.mjs MODE URL` prints what it got, as one JSON object.

import { randomUUID } from "node:crypto";

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

import { everywhere, inSession, newTold } from "./tour.mjs";

const [mode, url] = process.argv.slice(2);
const got = {};
const told = newTold();

const client = new Client(
  { name: "typescript-v2", version: "1" },
  {
    capabilities: { elicitation: {}, sampling: {} },
    versionNegotiation: { mode: mode === "legacy" || mode === "auto" ? mode : { pin: mode } },
  },
);
client.setRequestHandler("elicitation/create", () => ({ action: "accept", content: { name: "Ada" } }));
client.setRequestHandler("sampling/createMessage", () => ({
  role: "assistant",
  content: { type: "text", text: "ho ho" },
  model: "oracle",
}));
client.setNotificationHandler("notifications/message", ({ params }) => void told.logs.push(params.data));
client.setNotificationHandler("notifications/tools/list_changed", () => told.changes.put("tools"));
client.setNotificationHandler("notifications/resources/updated", ({ params }) => told.changes.put(params.uri));

async function call(name, args = {}) {
  const onprogress = ({ progress: done, total, message }) => told.progress.push([done, total, message]);
  // In the stateless era, a request says for itself what it wants to be logged.
  const _meta = mode === "legacy" ? undefined : { "io.modelcontextprotocol/logLevel": "info" };
  const result = await client.callTool({ name, arguments: args, _meta }, { onprogress });
  if (result.isError) throw new Error(JSON.stringify(result));
  return result.structuredContent;
}

const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);
got.revision = client.getNegotiatedProtocolVersion();
Object.assign(got, await everywhere(client, call, told));
if (mode === "legacy") {
  Object.assign(got, await inSession(client, call, told));
} else {
  const author = randomUUID();
  const mine = `memo://${author}/notes`;
  const heard = new Set();
  const subscription = await client.listen({ toolsListChanged: true, resourceSubscriptions: [mine] });
  await call("publish", { author });
  while (!heard.has(mine)) heard.add(await told.changes.next());
  got.heard = [...heard].map((what) => (what === mine ? "mine" : what)).sort();
  await subscription.close();
}

await transport.terminateSession();
await client.close();
console.log(JSON.stringify(got));
