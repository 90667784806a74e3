"use strict";
// Asks both lanes, lets the budget be changed in mid-sentence, and shows what comes.

const at = (id) => document.getElementById(id);
const recorded = JSON.parse(at("recorded").textContent);
const state = { props: null, lanes: {}, running: {}, watts: null, asked: null };

function headers() {
  const key = at("key").value;
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

async function call(path, body, method = body ? "POST" : "GET", signal = undefined) {
  const answer = await fetch(path, { method, headers: headers(), body: body && JSON.stringify(body), signal });
  if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.error?.message ?? answer.statusText);
  return answer;
}

// The objects of a stream of server-sent events.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

// From the shallowest exit alone to full depth while the other lane takes turns.
const LANES = 2;
const mostMs = () => LANES * state.props.costs.whole_ms;

function budgetMs() {
  const least = state.props.costs.least_ms;
  return least + (mostMs() - least) * at("slider").value / 100;
}

const budgetText = () => `${budgetMs().toPrecision(3)}ms`;

async function ask(name, budget) {
  const lane = state.lanes[name];
  const words = at("prompt").value;
  const chats = state.props.chats;
  state.asked = { words, most: Number(at("most").value) };
  const body = {
    stream: true, budget, max_tokens: state.asked.most, audit: true,
    ...(chats ? { messages: [{ role: "user", content: words }], logprobs: true } : { prompt: words, logprobs: 0 }),
  };
  const stopper = new AbortController();
  state.running[name] = { stopper, id: null };
  try {
    const answer = await call(`v1/${chats ? "chat/" : ""}completions`, body, "POST", stopper.signal);
    for await (const event of events(answer)) {
      if (event.error) throw new Error(event.error.message);
      state.running[name].id = event.id;
      const choice = event.choices[0];
      if (choice?.balcony) {
        const logprob = chats ? choice.logprobs?.content[0]?.logprob : choice.logprobs?.token_logprobs[0];
        lane.add({ ...choice.balcony, text: chats ? choice.delta.content : choice.text, logprob });
      }
      if (event.timings) lane.end(event.timings);
    }
  } catch (error) {
    if (error.name !== "AbortError") lane.figures.textContent = error.message;
  }
  delete state.running[name];
}

async function both(event) {
  event.preventDefault();
  at("go").disabled = true;
  at("stop").disabled = false;
  proof("");
  for (const lane of Object.values(state.lanes)) lane.clear();
  await Promise.all([ask("lossless", "full"), ask("spent", budgetText())]);
  at("go").disabled = false;
  at("stop").disabled = true;
  at("lossless").querySelector("button").disabled = !state.lanes.lossless.tokens.length;
}

function proof(said, kind = "") {
  const shown = at("lossless").querySelector(".proof span");
  shown.textContent = said;
  shown.className = kind;
  at("lossless").querySelector("button").disabled = true;
}

// Lets the server decode the same at plain full depth, and compares the hashes of both texts.
async function check() {
  proof("decoding at plain full depth …");
  try {
    const { words, most } = state.asked;
    const asked = state.props.chats ? { messages: [{ role: "user", content: words }] } : { prompt: words };
    const found = await (await call("v1/check", { ...asked, max_tokens: most, text: state.lanes.lossless.said })).json();
    const short = (hash) => hash.slice(0, 12);
    proof(`sha256 ${short(found.sha256)} ${found.same ? "=" : "≠"} ${short(found.full_depth_sha256)} of plain full depth`,
      found.same ? "yes" : "no");
  } catch (error) {
    proof(error.message, "no");
  }
}

async function slide() {
  at("shown").textContent = budgetText();
  const id = state.running.spent?.id;
  if (id) await call("v1/budget", { budget: budgetText(), reply: id }, "PUT").catch(() => null);
}

function hover(event) {
  const index = event.target.dataset?.index;
  const tip = at("tip");
  tip.hidden = index === undefined;
  if (tip.hidden) return;
  const lane = state.lanes[event.target.closest(".lane").id];
  tip.textContent = lane.tip(Number(index), state.watts);
  tip.style.left = `${Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${event.clientY + 16}px`;
}

async function watch() {
  const strips = new Strips(at("strips"));
  for (;;) {
    try {
      for await (const values of events(await call("v1/device"))) {
        state.watts = values.power_w ?? null;
        strips.add(values);
      }
    } catch { /* the server is away: try again */ }
    await new Promise((go) => setTimeout(go, 2000));
  }
}

function prepare(props) {
  state.props = props;
  for (const name of ["lossless", "spent"]) state.lanes[name] = new Lane(at(name), props.depths);
  legend(at("legend"), props.depths);
  at("about").textContent = props.about;
  document.addEventListener("pointermove", hover);
  document.addEventListener("pointerdown", hover);
}

// Shows a recorded run as fast as it was.
async function replay(run) {
  for (const id of ["ask", "budget", "strips"]) at(id).hidden = true;
  at("lossless").hidden = true;
  prepare(run.props);
  const lane = state.lanes.spent;
  lane.clear();
  at("spent").querySelector("h2").textContent = `recorded, budget ${run.budget}`;
  for (const token of run.tokens) {
    await new Promise((go) => setTimeout(go, Math.min(token.latency_ms, 400)));
    lane.add(token);
  }
  lane.end(run.timings);
}

async function start() {
  if (recorded) return replay(recorded);
  prepare(await (await call("props")).json());
  at("prompt").value = state.props.chats ? "Why is the sky blue?" : "Once upon a time";
  at("least").textContent = `shallowest exit alone ${state.props.costs.least_ms.toPrecision(3)} ms`;
  at("whole").textContent = `full depth, both lanes at once ${mostMs().toPrecision(3)} ms`;
  at("ask").addEventListener("submit", both);
  at("stop").addEventListener("click", () => Object.values(state.running).forEach((one) => one.stopper.abort()));
  at("slider").addEventListener("input", slide);
  at("lossless").querySelector("button").addEventListener("click", check);
  at("shown").textContent = budgetText();
  watch();
}

start();
