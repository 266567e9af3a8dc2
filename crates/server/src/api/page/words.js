// Numbers and moments as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });

export const unknown = "–";

export function count(number) {
  return number == null ? unknown : whole.format(number);
}

/** A rate, with a digit behind the point where that says something. */
export function rate(number) {
  if (number == null) return unknown;
  return number >= 100 || number === 0 ? whole.format(number) : fine.format(number);
}

export function percent(part, of) {
  return of > 0 ? `${fine.format((100 * part) / of)} %` : unknown;
}

export function size(bytes) {
  if (bytes == null) return unknown;
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let at = 0;
  while (bytes >= 1000 && at < units.length - 1) {
    bytes /= 1000;
    at += 1;
  }
  return `${at === 0 || bytes >= 100 ? whole.format(bytes) : fine.format(bytes)} ${units[at]}`;
}

/** A span in its two largest units. */
export function span(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return unknown;
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let left = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [name, len] of units) {
    const many = Math.floor(left / len);
    if (many > 0 || (name === "s" && parts.length === 0)) parts.push(`${many} ${name}`);
    else if (parts.length > 0) break;
    left -= many * len;
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}

/** A moment in seconds since 1970: the time, and the day when that is not today. */
export function moment(seconds) {
  if (seconds == null) return unknown;
  const at = new Date(seconds * 1000);
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return at.toDateString() === new Date().toDateString() ? time : `${at.toLocaleDateString([], { month: "short", day: "numeric" })} ${time}`;
}

export function status(batch) {
  const paused = batch.overnight.paused && !batch.ended ? ", paused" : "";
  return batch.status.replace("_", " ") + paused;
}
