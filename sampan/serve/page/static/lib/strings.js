// Every text of the page, in English and Chinese, and the choice between them.

import { read, write } from "./storage.js";

const LANGUAGE = "sampan.language";

export const TEXTS = {
  en: {
    "locale": "en",
    "title": "Sampan",
    "skip": "Skip to your message",
    "motto": "A light boat for real cargo",
    "welcome": "Answers come from the server's own processor. Nothing you write goes anywhere else.",
    "idea-1": "Why do boats float? Three points",
    "idea-2": "Reverse the words of a sentence in Python",
    "idea-3": "A table of three fruits",
    "ideas": "Ways to begin",

    "chats": "Chats",
    "new-chat": "New chat",
    "today": "Today",
    "yesterday": "Yesterday",
    "earlier": "Earlier",
    "no-chats": "Chats are kept in this browser.",
    "delete-chat": "Delete “{title}”",
    "deleted": "Chat deleted",
    "undo": "Undo",
    "delete-all": "Delete all chats",
    "delete-all-question": "Delete all chats kept in this browser? This cannot be undone.",
    "delete": "Delete",
    "cancel": "Cancel",
    "untitled": "New chat",
    "is-answering": "is being answered",
    "storage-full": "This browser has no room for more chats: the oldest were deleted.",
    "storage-off": "This browser keeps nothing for this page: chats are gone when it closes.",

    "menu": "Chats",
    "close": "Close",
    "model": "Model",
    "no-model": "No model",
    "live": "Live",
    "settings": "Settings",
    "theme": "Colours: {name}",
    "theme-auto": "as the system",
    "theme-light": "light",
    "theme-dark": "dark",
    "language": "中文",

    "message": "Your message",
    "message-hint": "Write a message",
    "send": "Send",
    "stop": "Stop",
    "keys": "Enter sends, Shift + Enter begins a line, Esc stops",
    "to-end": "To the end",

    "you": "You",
    "answer-by": "Answer of {model}",
    "thinking": "Thinking",
    "thought": "Thoughts",
    "tool-call": "Calls {name}",
    "copy": "Copy",
    "copied": "Copied",
    "copy-code": "Copy code",
    "edit": "Edit",
    "retry": "Answer again",
    "save-send": "Send",
    "edit-message": "Edit your message",

    "waiting": "One moment",
    "first-token": "{seconds} s to first token",
    "rate": "{rate} tokens/s",
    "tokens": "{count} tokens",
    "prompt-tokens": "prompt {count}",
    "prompt-cached": "prompt {count}, {cached} from cache",
    "end-length": "The answer reached its limit of tokens.",
    "end-deadline": "The answer reached the server's limit of time.",
    "end-stopped": "Stopped.",
    "end-lost": "The connection was lost. What arrived is kept.",
    "end-cancelled": "The server ended the answer.",
    "unreachable": "The server cannot be reached.",
    "try-again": "Try again",
    "busy": "The server is busy. Trying again in {seconds} s.",
    "try-now": "Try now",
    "give-up": "Stop waiting",
    "said-answering": "Answering",
    "said-done": "Answer complete, {count} tokens",
    "said-stopped": "Stopped",
    "said-failed": "No answer: {message}",

    "system-prompt": "System prompt",
    "system-hint": "What the model should know before it answers. For this chat.",
    "parameters": "Parameters",
    "parameters-hint": "Empty: the server's default. For all chats.",
    "reset": "Reset",
    "temperature": "Temperature",
    "temperature-help": "0 takes the likeliest token",
    "top_p": "Top p",
    "top_p-help": "likeliest tokens up to this share",
    "min_p": "Min p",
    "min_p-help": "at least this likely beside the likeliest",
    "top_k": "Top k",
    "top_k-help": "this many tokens; 0: all",
    "max_completion_tokens": "Longest answer",
    "max_completion_tokens-help": "in tokens",
    "seed": "Seed",
    "seed-help": "same seed, same answer",
    "mixture": "For mixtures of experts",
    "experts_per_token": "Experts per token",
    "experts_per_token-help": "fewer are faster",
    "expert_mass": "Expert mass",
    "expert_mass-help": "share of the routing weight to keep",
    "default": "default",
    "not-a-number": "This is not a number.",
    "data": "This browser",
    "forget-key": "Forget the API key",
    "key-forgotten": "The key is forgotten",

    "key-title": "This server asks for a key",
    "key-text": "It is kept until this tab is closed.",
    "key-refused": "The server refused that key.",
    "key": "API key",
    "key-send": "Continue",

    "live-title": "What the engine does",
    "memory": "KV memory",
    "memory-text": "{used}% held by answers, {cached}% kept for reuse",
    "generated": "Tokens written",
    "read": "Prompts read",
    "running": "Running",
    "queue": "Waiting",
    "hits": "Read from cache",
    "per-second": "/s",
    "weights": "Models in memory",
    "of-budget": "{used} of {budget} in all",
    "phase-idle": "ready",
    "phase-serving": "answering",
    "phase-loading": "loading",
    "phase-unloaded": "on disk",
    "no-status": "The server gives no figures now.",
    "no-engine": "No model is loaded yet.",
  },
  zh: {
    "locale": "zh-CN",
    "title": "Sampan 舢板",
    "skip": "跳到输入框",
    "motto": "轻舟已过万重山",
    "welcome": "回答由这台服务器自己的处理器算出，你写的内容不会去往别处。",
    "idea-1": "船为什么能浮起来？三个要点",
    "idea-2": "用 Python 倒转句子里的词",
    "idea-3": "三种水果，列成表格",
    "ideas": "可以这样开始",

    "chats": "对话",
    "new-chat": "新对话",
    "today": "今天",
    "yesterday": "昨天",
    "earlier": "更早",
    "no-chats": "对话只保存在这个浏览器里。",
    "delete-chat": "删除“{title}”",
    "deleted": "对话已删除",
    "undo": "撤销",
    "delete-all": "删除全部对话",
    "delete-all-question": "删除这个浏览器里保存的全部对话？此操作无法撤销。",
    "delete": "删除",
    "cancel": "取消",
    "untitled": "新对话",
    "is-answering": "正在回答",
    "storage-full": "浏览器的空间不足，最早的对话已删除。",
    "storage-off": "浏览器不允许本页保存数据，关闭后对话会丢失。",

    "menu": "对话列表",
    "close": "关闭",
    "model": "模型",
    "no-model": "没有模型",
    "live": "实时",
    "settings": "设置",
    "theme": "配色：{name}",
    "theme-auto": "跟随系统",
    "theme-light": "浅色",
    "theme-dark": "深色",
    "language": "English",

    "message": "你的消息",
    "message-hint": "写点什么",
    "send": "发送",
    "stop": "停止",
    "keys": "Enter 发送，Shift + Enter 换行，Esc 停止",
    "to-end": "回到末尾",

    "you": "你",
    "answer-by": "{model} 的回答",
    "thinking": "思考中",
    "thought": "思考过程",
    "tool-call": "调用 {name}",
    "copy": "复制",
    "copied": "已复制",
    "copy-code": "复制代码",
    "edit": "编辑",
    "retry": "重新回答",
    "save-send": "发送",
    "edit-message": "编辑你的消息",

    "waiting": "请稍候",
    "first-token": "首个词元 {seconds} 秒",
    "rate": "{rate} 词元/秒",
    "tokens": "{count} 个词元",
    "prompt-tokens": "提示 {count}",
    "prompt-cached": "提示 {count}，其中缓存 {cached}",
    "end-length": "回答达到了词元数上限。",
    "end-deadline": "回答达到了服务器的时间上限。",
    "end-stopped": "已停止。",
    "end-lost": "连接中断，已收到的内容会保留。",
    "end-cancelled": "服务器结束了这个回答。",
    "unreachable": "无法连接服务器。",
    "try-again": "重试",
    "busy": "服务器正忙，{seconds} 秒后重试。",
    "try-now": "立即重试",
    "give-up": "不再等待",
    "said-answering": "正在回答",
    "said-done": "回答完成，共 {count} 个词元",
    "said-stopped": "已停止",
    "said-failed": "没有回答：{message}",

    "system-prompt": "系统提示",
    "system-hint": "模型回答前应知道的内容，只用于当前对话。",
    "parameters": "参数",
    "parameters-hint": "留空则用服务器的默认值，对所有对话有效。",
    "reset": "重置",
    "temperature": "温度",
    "temperature-help": "0 总是取最可能的词元",
    "top_p": "Top p",
    "top_p-help": "累计到此比例的最可能词元",
    "min_p": "Min p",
    "min_p-help": "相对最可能词元的最低概率",
    "top_k": "Top k",
    "top_k-help": "保留的词元数，0 为全部",
    "max_completion_tokens": "回答长度上限",
    "max_completion_tokens-help": "以词元计",
    "seed": "种子",
    "seed-help": "种子相同，回答相同",
    "mixture": "用于混合专家模型",
    "experts_per_token": "每词元专家数",
    "experts_per_token-help": "越少越快",
    "expert_mass": "专家权重占比",
    "expert_mass-help": "保留的路由权重比例",
    "default": "默认",
    "not-a-number": "这不是数字。",
    "data": "这个浏览器",
    "forget-key": "忘记 API 密钥",
    "key-forgotten": "密钥已忘记",

    "key-title": "服务器需要密钥",
    "key-text": "密钥只保留到关闭此标签页为止。",
    "key-refused": "服务器拒绝了这个密钥。",
    "key": "API 密钥",
    "key-send": "继续",

    "live-title": "引擎正在做什么",
    "memory": "KV 内存",
    "memory-text": "回答占用 {used}%，可复用 {cached}%",
    "generated": "写出的词元",
    "read": "读入提示",
    "running": "同时运行",
    "queue": "排队",
    "hits": "缓存命中",
    "per-second": "/秒",
    "weights": "内存中的模型",
    "of-budget": "共 {used} / {budget}",
    "phase-idle": "就绪",
    "phase-serving": "正在回答",
    "phase-loading": "加载中",
    "phase-unloaded": "在磁盘上",
    "no-status": "服务器暂时没有提供数据。",
    "no-engine": "还没有加载模型。",
  },
};

const listeners = new EventTarget();
let language = chosen();

function chosen() {
  const kept = read(LANGUAGE, null);
  if (Object.hasOwn(TEXTS, kept)) return kept;
  const wanted = navigator.languages.find((tag) => /^(?:zh|en)\b/.test(tag));
  return wanted?.startsWith("zh") ? "zh" : "en";
}

/** A text in the chosen language; `{name}` in it is replaced by the value of that name. */
export function text(key, values = {}) {
  if (!Object.hasOwn(TEXTS[language], key)) throw new Error(`there is no text ${key}`);
  return TEXTS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

export function number(value, digits = 0) {
  return value.toLocaleString(text("locale"), {
    maximumFractionDigits: digits,
    minimumFractionDigits: digits,
  });
}

export function switchLanguage() {
  language = language === "en" ? "zh" : "en";
  write(LANGUAGE, language);
  translate();
  listeners.dispatchEvent(new Event("change"));
}

/** Calls `listener` after the language was changed. */
export function onLanguage(listener) {
  listeners.addEventListener("change", listener);
}

/** Fills in the texts that elements of the document name: data-text, data-label, data-hint. */
export function translate(root = document) {
  document.documentElement.lang = text("locale");
  document.title = text("title");
  for (const node of root.querySelectorAll("[data-text]")) node.textContent = text(node.dataset.text);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", text(node.dataset.label));
    if (node.localName === "button") node.title = text(node.dataset.label);
  }
  for (const node of root.querySelectorAll("[data-hint]")) node.placeholder = text(node.dataset.hint);
}
