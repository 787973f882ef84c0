// Serves a page, and opens it in headless Chromium, which calls a server of its own by gRPC-Web.
//
//   node run.mjs COLUMBA BUF TOOLS WORK: the server's and buf's programs, where package.json is installed, and
//   a folder for what is generated

import { execFileSync, spawn } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import { createRequire } from "node:module";
import path from "node:path";
import { createInterface } from "node:readline";
import zlib from "node:zlib";

const [columba, buf, tools, work] = process.argv.slice(2);
const here = import.meta.dirname;
const require = createRequire(path.join(tools, "package.json"));
const { chromium } = require("playwright-core");
const esbuild = require("esbuild");

/** Generates the client, and puts the page's program into one file. */
async function build() {
  const env = { ...process.env, PATH: `${tools}/node_modules/.bin:${process.env.PATH}` };
  const root = path.join(here, "../..");
  const template = path.join(here, "buf.gen.yaml");
  execFileSync(buf, ["generate", root, "--template", template, "--output", work], { env, stdio: "inherit" });
  fs.copyFileSync(path.join(here, "page.ts"), path.join(work, "page.ts"));
  const bundle = { bundle: true, format: "esm", write: false, nodePaths: [path.join(tools, "node_modules")] };
  const built = await esbuild.build({ entryPoints: [path.join(work, "page.ts")], ...bundle });
  return built.outputFiles[0].text;
}

/** Unpacks the browser and what it needs. */
function browser() {
  const packed = path.join(tools, "node_modules/@sparticuz/chromium/bin");
  const unpacked = path.join(tools, "chromium");
  const program = path.join(unpacked, "chromium");
  const read = (file) => zlib.brotliDecompressSync(fs.readFileSync(path.join(packed, file)));
  if (!fs.existsSync(program)) {
    fs.mkdirSync(unpacked, { recursive: true });
    for (const archive of ["al2023", "swiftshader", "fonts"]) {
      execFileSync("tar", ["x", "-C", unpacked], { input: read(`${archive}.tar.br`) });
    }
    // Whole or not at all.
    const part = `${program}.${process.pid}`;
    fs.writeFileSync(part, read("chromium.br"), { mode: 0o755 });
    fs.renameSync(part, program);
  }
  const env = { ...process.env, LD_LIBRARY_PATH: path.join(unpacked, "lib"), FONTCONFIG_PATH: unpacked };
  const args = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"];
  return chromium.launch({ executablePath: program, env, args: [...args, "--disable-sync"] });
}

/** Starts a server that lets pages of this origin call; its address. */
async function serve(origin) {
  const args = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
  const env = { ...process.env, COLUMBA_WEB_ORIGINS: origin };
  const stdio = ["ignore", "pipe", "inherit"];
  const server = spawn(columba, [...args, "--data-dir", path.join(work, "data")], { env, stdio });
  process.on("exit", () => server.kill("SIGKILL"));
  for await (const line of createInterface(server.stdout)) {
    return `http://${line.match(/serving gRPC on ([^,]+)/)[1]}`;
  }
  throw new Error("the server did not serve");
}

const script = await build();
const pages = http.createServer((request, response) => {
  const isScript = request.url === "/page.js";
  response.setHeader("content-type", isScript ? "text/javascript" : "text/html; charset=utf-8");
  response.end(isScript ? script : '<!doctype html><body><script type="module" src="/page.js"></script>');
});
await new Promise((listening) => pages.listen(0, "127.0.0.1", listening));
const { port } = pages.address();
const server = await serve(`http://localhost:${port}`);
const chrome = await browser();

/** What the page says when it is opened under this host's name. */
async function visit(host) {
  const page = await chrome.newPage();
  await page.goto(`http://${host}:${port}/?server=${encodeURIComponent(server)}`);
  await page.waitForFunction(() => document.title === "done");
  const text = await page.textContent("body");
  await page.close();
  return JSON.parse(text);
}

// The same page of another origin, first: nothing it does may have an effect.
const foreign = await visit("127.0.0.1");
const own = await visit("localhost");
console.log(JSON.stringify({ own, foreign }));
await chrome.close();
process.exit(0);
