// The client of the official TypeScript SDK v2: `client_v2.mjs MODE URL` prints what it got, as one JSON object.

import { randomUUID } from "node:crypto";

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

import { Inbox } from "./inbox.mjs";

const [mode, url] = process.argv.slice(2);
const got = {};
const changes = new Inbox();
let logs = [];
const progress = [];

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
client.setNotificationHandler("notifications/message", ({ params }) => void logs.push(params.data));
client.setNotificationHandler("notifications/tools/list_changed", () => changes.put("tools"));
client.setNotificationHandler("notifications/resources/updated", ({ params }) => changes.put(params.uri));

async function call(name, args = {}) {
  const onprogress = ({ progress: done, total, message }) => progress.push([done, total, message]);
  // In the stateless era, a request says for itself what it wants to be logged.
  const _meta = mode === "legacy" ? undefined : { "io.modelcontextprotocol/logLevel": "info" };
  const result = await client.callTool({ name, arguments: args, _meta }, { onprogress });
  if (result.isError) throw new Error(JSON.stringify(result));
  return result.structuredContent;
}

const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);
got.revision = client.getNegotiatedProtocolVersion();
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

if (mode === "legacy") {
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
} else {
  const author = randomUUID();
  const mine = `memo://${author}/notes`;
  const heard = new Set();
  const subscription = await client.listen({ toolsListChanged: true, resourceSubscriptions: [mine] });
  await call("publish", { author });
  while (!heard.has(mine)) heard.add(await changes.next());
  got.heard = [...heard].map((what) => (what === mine ? "mine" : what)).sort();
  await subscription.close();
}

await transport.terminateSession();
await client.close();
console.log(JSON.stringify(got));
