// What the page asks of /v1/organization: teams, keys, people, usage, prices, the audit log.

import { getJson, postJson, remove } from "./api.js";

const ROOT = "v1/organization";
const PAGE = 100;
const DAYS_OF_A_PAGE = 31;
const REPORT_ATTEMPTS = 5;
const part = encodeURIComponent;

/** All items of a list, page by page. */
async function all(path) {
  const found = [];
  for (let after = ""; ; ) {
    const { data, has_more: more, last_id: last } = await getJson(`${path}?limit=${PAGE}${after && `&after=${part(after)}`}`);
    found.push(...data);
    if (!more) return found;
    after = last;
  }
}

export const me = () => getJson(`${ROOT}/me`);
export const teams = () => all(`${ROOT}/projects`);
export const createTeam = (body) => postJson(`${ROOT}/projects`, body);
export const changeTeam = (id, body) => postJson(`${ROOT}/projects/${part(id)}`, body);
export const archiveTeam = (id) => postJson(`${ROOT}/projects/${part(id)}/archive`, {});

export const keys = (team) => all(`${ROOT}/projects/${part(team)}/api_keys`);
export const createKey = (team, body) => postJson(`${ROOT}/projects/${part(team)}/api_keys`, body);
export const changeKey = (team, id, body) => postJson(`${ROOT}/projects/${part(team)}/api_keys/${part(id)}`, body);
export const revokeKey = (team, id) => remove(`${ROOT}/projects/${part(team)}/api_keys/${part(id)}`);

export const members = (team) => all(`${ROOT}/projects/${part(team)}/users`);
export const addMember = (team, body) => postJson(`${ROOT}/projects/${part(team)}/users`, body);
export const changeMember = (team, id, body) => postJson(`${ROOT}/projects/${part(team)}/users/${part(id)}`, body);
export const removeMember = (team, id) => remove(`${ROOT}/projects/${part(team)}/users/${part(id)}`);

export const prices = async () => (await getJson(`${ROOT}/prices`)).data;
export const setPrice = (body) => postJson(`${ROOT}/prices`, body);

/** A page of the audit log, from the newest on. after: id of the last entry that was seen. */
export const audit = (after) => getJson(`${ROOT}/audit_logs?limit=50${after ? `&after=${part(after)}` : ""}`);

/** A report, as soon as the server has room for one. */
async function report(path) {
  for (let attempts = REPORT_ATTEMPTS; ; attempts--) {
    try {
      return await getJson(path);
    } catch (error) {
      if (error.kind !== "limited" || attempts <= 1) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter ?? 1)));
    }
  }
}

/** Buckets of usage since `start` (seconds). team: of this one; null: of all that one may see. width: `1d` or `all`. */
export async function usage({ start, team, width, by }) {
  const query = new URLSearchParams({ start_time: start, bucket_width: width });
  if (width === "1d") query.set("limit", DAYS_OF_A_PAGE);
  if (team) query.append("project_ids", team);
  if (by) query.append("group_by", by);
  const buckets = [];
  for (;;) {
    const { data, has_more: more, next_page: next } = await report(`${ROOT}/usage/completions?${query}`);
    buckets.push(...data);
    if (!more) return buckets;
    query.set("page", next);
  }
}
