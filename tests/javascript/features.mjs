// The requests of both TypeScript clients; `received` collects the messages that the server sends meanwhile.

import { Inbox } from "./inbox.mjs";

export const newReceived = () => ({ progress: [], logs: [], changes: new Inbox() });

// Use every feature that needs no session, and return the results.
export async function useFeatures(client, call, received) {
  const results = {};
  results.tools = (await client.listTools()).tools.map((tool) => tool.name);
  results.weather = await call("weather", { city: "Ulm" });
  results.counted = (await call("count", { steps: 3 })).result;
  results.progress = [...received.progress];
  results.logs = [...received.logs];

  results.prompts = (await client.listPrompts()).prompts.map((prompt) => prompt.name);
  const prompt = await client.getPrompt({ name: "introduce", arguments: { name: "Ada" } });
  results.prompt = prompt.messages[0].content.text;
  const completed = await client.complete({
    ref: { type: "ref/prompt", name: "introduce" },
    argument: { name: "name", value: "a" },
  });
  results.completed = completed.completion.values;
  results.resources = (await client.listResources()).resources.map((resource) => resource.uri);
  results.templates = (await client.listResourceTemplates()).resourceTemplates.map((template) => template.uriTemplate);
  results.greeting = (await client.readResource({ uri: "memo://greeting" })).contents[0].text;
  results.notes = (await client.readResource({ uri: "memo://ada/notes" })).contents[0].text;

  results.greeted = (await call("greet")).result;
  results.quoted = (await call("quote")).result;
  return results;
}

// Use what needs a session, changes on the standalone stream and calls whose streams break, and return the results.
export async function useSession(client, call, received) {
  const results = {};
  await client.subscribeResource({ uri: "memo://ada/notes" });
  await call("change");
  results.changes = [await received.changes.next(), await received.changes.next()];
  for (const tool of ["reconnect", "wait"]) {
    received.logs.length = 0;
    const result = (await call(tool)).result;
    results[tool] = [...received.logs, result];
  }
  await call("change");
  results["changes later"] = [await received.changes.next(), await received.changes.next()];
  return results;
}
