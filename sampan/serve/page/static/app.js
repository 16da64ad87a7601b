// Puts the parts of the page together.

import { Chat } from "./chat/chat.js";
import { Composer } from "./chat/composer.js";
import { Conversations } from "./chat/conversations.js";
import { Models } from "./chat/models.js";
import { Sidebar } from "./chat/sidebar.js";
import { Thread } from "./chat/thread.js";
import { byId, element } from "./lib/dom.js";
import { announce, askForKey, notify } from "./lib/notice.js";
import { number, onLanguage, switchLanguage, text, translate } from "./lib/strings.js";
import { startTheme } from "./lib/theme.js";
import { LiveView } from "./panel/live.js";
import { Panel } from "./panel/panel.js";
import { parameters, showProblem } from "./panel/parameters.js";
import { Settings } from "./panel/settings.js";
import { onKeyNeeded } from "./server/api.js";

const IS_MAC = /Mac|iPhone|iPad/.test(navigator.platform);

translate();
startTheme();
onKeyNeeded(askForKey);

const conversations = new Conversations();
const models = new Models();
const chats = new Chat(conversations, () => ({ model: models.name, parameters: parameters() }));
let current = conversations.create();

const thread = new Thread(chats, (isEmpty) => {
  byId("welcome").hidden = !isEmpty;
  document.body.classList.toggle("empty", isEmpty);
});
const composer = new Composer({
  send: (content) => chats.send(current, content),
  stop: () => chats.stop(current),
});
const sidebar = new Sidebar(conversations, {
  open: (id) => open(conversations.get(id)),
  remove,
  isRunning: (id) => chats.isRunning({ id }),
});
const settings = new Settings({
  chat: () => current,
  changed: () => conversations.save(current),
  deleteAll,
});
settings.show();
const live = new LiveView();
const panel = new Panel((name) => live.setOpen(name === "live"));

function open(chat) {
  if (chat === null) return;
  current = chat;
  thread.show(chat);
  composer.setRunning(chats.isRunning(chat));
  settings.showChat();
  sidebar.select(chat.id);
  sidebar.close();
}

function newChat() {
  open(current.messages.length === 0 ? current : conversations.create());
  composer.focus();
}

function remove(id) {
  const chat = conversations.get(id);
  if (chat === null) return;
  chats.stop(chat);
  conversations.delete(id);
  if (current.id === id) open(conversations.create());
  notify(text("deleted"), { label: text("undo"), run: () => conversations.restore(chat) });
}

function deleteAll() {
  for (const { id } of conversations.list()) chats.stop({ id });
  conversations.deleteAll();
  open(conversations.create());
}

async function loadModels() {
  try {
    await models.load();
    settings.show();
  } catch (error) {
    const words = error.status === 0 ? text("unreachable") : error.message;
    notify(words, { label: text("try-again"), run: loadModels });
  }
}

function showIdeas() {
  const ideas = ["idea-1", "idea-2", "idea-3"].map((key) =>
    element(
      "li",
      {},
      element("button", { type: "button", on: { click: () => composer.fill(text(key)) } }, text(key)),
    ),
  );
  byId("ideas").replaceChildren(...ideas);
}

function showLanguage() {
  showIdeas();
  models.show();
  settings.show();
  sidebar.show();
  thread.show(current);
}

chats.addEventListener("start", ({ detail: { chat } }) => {
  if (chat === current) {
    thread.follow();
    thread.sync();
    composer.setRunning(true);
    composer.focus();
    announce(text("said-answering"));
  }
  sidebar.select(current.id);
});
chats.addEventListener("update", ({ detail: { answer } }) => thread.update(answer));
chats.addEventListener("end", ({ detail: { chat, answer } }) => {
  sidebar.show();
  if (chat !== current) return;
  thread.sync();
  composer.setRunning(false);
  const { state, figures, error } = answer;
  if (state === "done") announce(text("said-done", { count: number(figures.tokens) }));
  else if (state === "stopped") announce(text("said-stopped"));
  else announce(text("said-failed", { message: error?.message ?? text("end-lost") }));
  if (error?.parameter) {
    panel.set("settings");
    showProblem(error.parameter, error.message);
  }
});

conversations.addEventListener("warning", ({ detail: key }) => notify(text(key)));
byId("new-chat").addEventListener("click", newChat);
byId("new-chat-keys").textContent = IS_MAC ? "⌘K" : "Ctrl K";
byId("language").addEventListener("click", switchLanguage);
onLanguage(showLanguage);

document.addEventListener("keydown", (event) => {
  if (event.isComposing || document.querySelector("dialog[open]")) return;
  if (
    (event.ctrlKey || event.metaKey) &&
    !event.shiftKey &&
    !event.altKey &&
    event.key.toLowerCase() === "k"
  ) {
    event.preventDefault();
    newChat();
  } else if (event.key === "Escape") {
    if (sidebar.close()) return;
    if (panel.covers && panel.close()) return;
    chats.stop(current);
  }
});

showIdeas();
open(current);
composer.focus();
loadModels();
