// OpenAPI as a page to read: each route with the fields that it takes and gives.

import { node } from "./dom.js";
import { get } from "./stream.js";

const refName = (schema) => schema.$ref?.split("/").pop();

/** A schema in a few words. */
function typeOf(schema) {
  if (schema.$ref) return refName(schema);
  const choices = schema.oneOf ?? schema.anyOf;
  if (choices) return [...new Set(choices.map(typeOf))].join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return schema.items ? `list of (${typeOf(schema.items)})`.replace(/\((\S+)\)/, "$1") : "list";
  if (schema.type === "object" && schema.additionalProperties) return `map to ${typeOf(schema.additionalProperties)}`;
  return Array.isArray(schema.type) ? schema.type.join(" or ") : (schema.type ?? "any");
}

function bounds(schema) {
  schema = { ...schema.anyOf?.find((choice) => choice.type !== "null"), ...schema };
  const words = { minimum: "≥", exclusiveMinimum: ">", maximum: "≤", exclusiveMaximum: "<", minLength: "length ≥", maxItems: "items ≤" };
  const found = Object.entries(words).filter(([name]) => schema[name] !== undefined && Math.abs(schema[name]) < 2 ** 31 - 1);
  const parts = found.map(([name, word]) => `${word} ${schema[name]}`);
  if (schema.default !== undefined && schema.default !== null) parts.push(`default ${JSON.stringify(schema.default)}`);
  return parts.join(", ");
}

function fields(schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) =>
    node(
      "tr",
      {},
      node("th", { scope: "row" }, node("code", {}, name), schema.required?.includes(name) ? " *" : ""),
      node("td", {}, typeOf(field)),
      node("td", {}, [bounds(field), field.description].filter(Boolean).join(". ")),
    ),
  );
  return node("table", {}, node("tbody", {}, ...rows));
}

function route(path, method, operation, schemas) {
  const body = operation.requestBody?.content?.["application/json"]?.schema;
  const answer = operation.responses?.["200"]?.content?.["application/json"]?.schema;
  const parts = [
    node("h2", { id: operation.operationId }, node("code", {}, `${method.toUpperCase()} ${path}`)),
    node("p", {}, [operation.summary, operation.description].filter(Boolean).join(". ")),
  ];
  for (const [label, schema] of [["Takes", body], ["Gives", answer]]) {
    const name = schema && refName(schema);
    if (!name) continue;
    parts.push(node("h3", {}, `${label} ${name}`));
    const words = schemas[name].description;
    if (words) parts.push(node("p", { className: "help" }, words));
    parts.push(fields(schemas[name]));
  }
  return node("section", {}, ...parts);
}

const page = document.getElementById("docs");

try {
  show(await get("/docs/openapi.json"));
} catch (error) {
  const hint = error.status === 401 ? " Give it on the other pages, behind the key at their head." : "";
  page.replaceChildren(node("p", {}, error.message + hint));
}

function show(api) {
  const schemas = api.components.schemas;
  const routes = Object.entries(api.paths).flatMap(([path, item]) =>
    Object.entries(item)
      .filter(([, operation]) => operation.operationId)
      .map(([method, operation]) => ({ path, method, operation })),
  );
  routes.sort((one, other) => (one.method === "post" ? 0 : 1) - (other.method === "post" ? 0 : 1));
  const shown = new Set(routes.flatMap(({ operation }) => [
    refName(operation.requestBody?.content?.["application/json"]?.schema ?? {}),
    refName(operation.responses?.["200"]?.content?.["application/json"]?.schema ?? {}),
  ]));
  const others = Object.entries(schemas)
    .filter(([name]) => !shown.has(name))
    .map(([name, schema]) => node("section", {}, node("h2", { id: name }, name), fields(schema)));
  page.replaceChildren(...routes.map(({ path, method, operation }) => route(path, method, operation, schemas)), ...others);
}
