// The two handlers of bakrypt's documentation, on Express 5 and axios. They behave as documented.
// Two things are our choice: the routes, because the documentation registers whole URLs, and
// keep-alive connections, so that the comparison is fair to Node. /v1/ leads to bakrypt's API with
// http-proxy-middleware, which adds a token. PROCESSES=2 starts a cluster.
import cluster from "node:cluster";
import http from "node:http";
import axios from "axios";
import express from "express";
import { createProxyMiddleware } from "http-proxy-middleware";

const { UPSTREAM, PORT, PROCESSES = "1" } = process.env;
const authToken = "benchmark-token";
const clientId = "benchmark-client";
const clientSecret = "benchmark-secret";

const agent = new http.Agent({ keepAlive: true });
axios.defaults.httpAgent = agent;

function fail(res, error) {
  console.error(error);
  res.status(500).send("Internal Server Error");
}

function serve() {
  const app = express();
  const headers = { Authorization: `Bearer ${authToken}` };
  app.use("/v1", createProxyMiddleware({ target: `${UPSTREAM}/v1`, agent, headers }));
  app.use(express.json());

  app.post("/auth/exchange/", async (req, res) => {
    try {
      const config = { headers: { "Content-Type": "application/json", Authorization: `Token ${authToken}` } };
      const response = await axios.post(`${UPSTREAM}/auth/exchange/`, null, config);
      res.send(response.data);
    } catch (error) {
      fail(res, error);
    }
  });

  app.post("/auth/token/", async (req, res) => {
    try {
      const { username, password } = req.body;
      const payload = new URLSearchParams();
      payload.append("client_id", clientId);
      payload.append("client_secret", clientSecret);
      payload.append("username", username);
      payload.append("password", password);
      payload.append("grant_type", "password");
      const config = { headers: { "Content-Type": "application/x-www-form-urlencoded" } };
      const response = await axios.post(`${UPSTREAM}/auth/token/`, payload, config);
      res.send(response.data);
    } catch (error) {
      fail(res, error);
    }
  });

  app.listen(Number(PORT), "127.0.0.1");
}

if (cluster.isPrimary && Number(PROCESSES) > 1) {
  for (let count = 0; count < Number(PROCESSES); count++) cluster.fork();
} else {
  serve();
}
