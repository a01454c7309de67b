// The client of the official TypeScript SDK v1: `client_v1.mjs URL` prints what it got, as one JSON object.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
  ToolListChangedNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";

import { Inbox } from "./inbox.mjs";

const [url] = process.argv.slice(2);
const got = {};
const changes = new Inbox();
let logs = [];
const progress = [];

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
client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => logs.push(params.data));
client.setNotificationHandler(ToolListChangedNotificationSchema, () => changes.put("tools"));
client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => changes.put(params.uri));

async function call(name, args = {}) {
  const onprogress = ({ progress: done, total, message }) => progress.push([done, total, message]);
  const result = await client.callTool({ name, arguments: args }, undefined, { onprogress });
  if (result.isError) throw new Error(JSON.stringify(result));
  return result.structuredContent;
}

const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);
got.revision = transport.protocolVersion;
got.tools = (await client.listTools()).tools.map((tool) => tool.name);
got.weather = await call("weather", { city: "Ulm" });
got.counted = (await call("count", { steps: 3 })).result;
got.progress = [...progress];
got.logs = [...logs];

got.prompts = (await client.listPrompts()).prompts.map((prompt) => prompt.name);
const prompt = await client.getPrompt({ name: "introduce", arguments: { name: "Ada" } });
got.prompt = prompt.messages[0].content.text;
const completed = await client.complete({
  ref: { type: "ref/prompt", name: "introduce" },
  argument: { name: "name", value: "a" },
});
got.completed = completed.completion.values;
got.resources = (await client.listResources()).resources.map((resource) => resource.uri);
got.templates = (await client.listResourceTemplates()).resourceTemplates.map((template) => template.uriTemplate);
got.greeting = (await client.readResource({ uri: "memo://greeting" })).contents[0].text;
got.notes = (await client.readResource({ uri: "memo://ada/notes" })).contents[0].text;

got.greeted = (await call("greet")).result;
got.quoted = (await call("quote")).result;

await client.subscribeResource({ uri: "memo://ada/notes" });
await call("change");
got.changes = [await changes.next(), await changes.next()];
for (const tool of ["leave", "wait"]) {
  logs = [];
  const ended = (await call(tool)).result;
  got[tool] = [...logs, ended];
}
await call("change");
got["changes later"] = [await changes.next(), await changes.next()];

await transport.terminateSession();
await client.close();
console.log(JSON.stringify(got));
