// Where several hosts share the database: their devices, free or with the run that has each.
import { get, page } from "../api.js";
import { fill, h, link } from "../dom.js";
import { bytes, plain } from "../format.js";
import { menu } from "../menu.js";

const EVERY = 5; // refreshes of the page
const EVERY_ALONE = 15; // of one host, beside which another may come; where none may, it asks once

export class HostsMenu {
  /** Of the hosts that were drawn last. */
  print = "";
  turn = 0;
  several = false;
  over = false;

  constructor() {
    this.label = h("span");
    this.table = h("div", { class: "hosts" });
    this.menu = menu(this.label, [this.table], { id: "hosts" });
    this.element = h("span");
  }

  async refresh() {
    const due = !this.over && this.turn % (this.several ? EVERY : EVERY_ALONE) === 0;
    this.turn++;
    if (!due) return;
    try {
      const { items, shared } = await get("hosts");
      this.show(items);
      this.over = !shared && !this.several;
    } catch {
      // the list of runs says that the server does not respond
    }
  }

  /** One host alone needs no list. @param {HostItem[]} hosts */
  show(hosts) {
    this.several = hosts.length > 1;
    const print = JSON.stringify(hosts.map((host) => ({ ...host, age: host.seen ? 0 : ago(host) })));
    if (print === this.print) return;
    this.print = print;
    this.label.textContent = summary(hosts);
    fill(this.table, hostTable(hosts));
    if (!this.several) fill(this.element);
    else if (!this.menu.isConnected) fill(this.element, this.menu);
  }
}

/** @param {HostItem[]} hosts */
function summary(hosts) {
  const devices = hosts.filter((host) => host.seen).flatMap((host) => host.devices);
  const free = devices.filter((device) => !device.run).length;
  return `${hosts.length} hosts, ${free} of ${devices.length} devices free`;
}

/** @param {HostItem[]} hosts */
function hostTable(hosts) {
  const heads = ["Host", "Device", "Run"].map((text) => h("th", { scope: "col", text }));
  return h(
    "table",
    { class: "table" },
    h("caption", { class: "offscreen", text: "Hosts and their devices" }),
    h("thead", {}, h("tr", {}, heads)),
    hosts.map(hostRows),
  );
}

/** A group of rows, one for each device. @param {HostItem} host */
function hostRows(host) {
  const head = h(
    "th",
    { scope: "rowgroup", rowspan: Math.max(1, host.devices.length) },
    h("span", { text: plain(host.name, 60) }),
    host.here && h("span", { class: "note muted", text: " this server" }),
    !host.seen && h("span", { class: "note", text: ` not seen for ${ago(host)}` }),
    host.clock && h("span", { class: "note", text: ` its clock is ${plain(host.clock, 60)}` }),
  );
  const rows = host.devices.map((device) => [
    h("td", { title: plain(device.name, 80) }, deviceOf(device)),
    h("td", {}, runOf(device, host)),
  ]);
  if (!rows.length) rows.push([h("td", { colspan: 2, class: "muted", text: "no devices" })]);
  const lines = rows.map((cells, number) => h("tr", {}, number === 0 && head, cells));
  return h("tbody", { class: host.seen ? "" : "unseen" }, lines);
}

/** @param {HostItem["devices"][number]} device */
function deviceOf({ slot, name, memory }) {
  const kind = plain(name.replace(/^NVIDIA /, ""), 30);
  return [
    plain(slot, 20),
    kind && h("span", { class: "device-kind muted", text: ` · ${kind}` }),
    memory && h("span", { class: "device-kind muted", text: ` · ${bytes(memory)}` }),
  ];
}

/** @param {HostItem["devices"][number]} device @param {HostItem} host */
function runOf({ run }, host) {
  if (!run) return h("span", { class: "muted", text: host.seen ? "free" : "–" });
  return [
    link(plain(run.name || run.id, 40), page("run", { id: run.id }), { title: run.id }),
    run.started_by && h("span", { class: "note muted", text: ` ${plain(run.started_by, 40)}` }),
  ];
}

/** For how long a host was not heard of. @param {HostItem} host */
function ago({ age }) {
  return age < 3600 ? `${Math.floor(age / 60)} min` : `${Math.floor(age / 3600)} h`;
}
