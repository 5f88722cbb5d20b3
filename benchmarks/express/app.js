// The two handlers of bakrypt's documentation, for the benchmark: behaviour as documented, on Express 5 and axios.
// Ours to choose were the routes, which the documentation gives as whole addresses, and connections that are kept
// alive, so that nobody can say that Node was handicapped. PROCESSES=2 makes it a cluster of two.
import cluster from "node:cluster";
import http from "node:http";
import axios from "axios";
import express from "express";

const { UPSTREAM, PORT, PROCESSES = "1" } = process.env;
const authToken = "benchmark-token";
const clientId = "benchmark-client";
const clientSecret = "benchmark-secret";

axios.defaults.httpAgent = new http.Agent({ keepAlive: true });

function fail(res, error) {
  console.error(error);
  res.status(500).send("Internal Server Error");
}

function serve() {
  const app = express();
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
