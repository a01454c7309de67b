// What both clients in TypeScript do once they are connected; `told` is what they are told meanwhile.

import { Inbox } from "./inbox.mjs";

export const newTold = () => ({ progress: [], logs: [], changes: new Inbox() });

// All that can be done anywhere; returns what was got.
export async function everywhere(client, call, told) {
  const got = {};
  got.tools = (await client.listTools()).tools.map((tool) => tool.name);
  got.weather = await call("weather", { city: "Ulm" });
  got.counted = (await call("count", { steps: 3 })).result;
  got.progress = [...told.progress];
  got.logs = [...told.logs];

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
  return got;
}

// What takes a session: changes on the standalone stream, and calls whose streams break.
export async function inSession(client, call, told) {
  const got = {};
  await client.subscribeResource({ uri: "memo://ada/notes" });
  await call("change");
  got.changes = [await told.changes.next(), await told.changes.next()];
  for (const tool of ["leave", "wait"]) {
    told.logs.length = 0;
    const ended = (await call(tool)).result;
    got[tool] = [...told.logs, ended];
  }
  await call("change");
  got["changes later"] = [await told.changes.next(), await told.changes.next()];
  return got;
}
