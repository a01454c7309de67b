// The client of the official TypeScript SDK v2: `client_v2.mjs MODE URL` prints its results as one JSON object.

import { randomUUID } from "node:crypto";

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

import { useFeatures, useSession, newReceived } from "./features.mjs";

const [mode, url] = process.argv.slice(2);
const results = {};
const received = newReceived();

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
client.setNotificationHandler("notifications/message", ({ params }) => void received.logs.push(params.data));
client.setNotificationHandler("notifications/tools/list_changed", () => received.changes.put("tools"));
client.setNotificationHandler("notifications/resources/updated", ({ params }) => received.changes.put(params.uri));

async function call(name, args = {}) {
  const onprogress = ({ progress: done, total, message }) => received.progress.push([done, total, message]);
  // In the stateless era, each request sets its logging level.
  const _meta = mode === "legacy" ? undefined : { "io.modelcontextprotocol/logLevel": "info" };
  const result = await client.callTool({ name, arguments: args, _meta }, { onprogress });
  if (result.isError) throw new Error(JSON.stringify(result));
  return result.structuredContent;
}

const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);
results.revision = client.getNegotiatedProtocolVersion();
Object.assign(results, await useFeatures(client, call, received));
if (mode === "legacy") {
  Object.assign(results, await useSession(client, call, received));
} else {
  const author = randomUUID();
  const mine = `memo://${author}/notes`;
  const notified = new Set();
  const subscription = await client.listen({ toolsListChanged: true, resourceSubscriptions: [mine] });
  await call("publish", { author });
  while (!notified.has(mine)) notified.add(await received.changes.next());
  results.notified = [...notified].map((change) => (change === mine ? "mine" : change)).sort();
  await subscription.close();
}

await transport.terminateSession();
await client.close();
console.log(JSON.stringify(results));
