// The client of the official TypeScript SDK v1: `client_v1.mjs URL` prints its results as one JSON object.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
  ToolListChangedNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";

import { useFeatures, useSession, newReceived } from "./features.mjs";

const [url] = process.argv.slice(2);
const results = {};
const received = newReceived();

const client = new Client(
  { name: "typescript-v1", version: "1" },
  { capabilities: { elicitation: {}, sampling: {} } },
);
client.setRequestHandler(ElicitRequestSchema, () => ({ action: "accept", content: { name: "Ada" } }));
client.setRequestHandler(CreateMessageRequestSchema, () => ({
  role: "assistant",
  content: { type: "text", text: "ho ho" },
  model: "oracle",
}));
client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => received.logs.push(params.data));
client.setNotificationHandler(ToolListChangedNotificationSchema, () => received.changes.put("tools"));
client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => received.changes.put(params.uri));

async function call(name, args = {}) {
  const onprogress = ({ progress: done, total, message }) => received.progress.push([done, total, message]);
  const result = await client.callTool({ name, arguments: args }, undefined, { onprogress });
  if (result.isError) throw new Error(JSON.stringify(result));
  return result.structuredContent;
}

const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);
results.revision = transport.protocolVersion;
Object.assign(results, await useFeatures(client, call, received), await useSession(client, call, received));

await transport.terminateSession();
await client.close();
console.log(JSON.stringify(results));
