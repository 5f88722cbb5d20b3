-- wrk sends the same request again and again and prints its measurements as one line of JSON.
-- Arguments: the method, the body, its content type and the cookies; the last three may be empty.

function init(args)
  wrk.method = args[1]
  wrk.body = args[2] ~= "" and args[2] or nil
  if args[3] ~= "" then wrk.headers["Content-Type"] = args[3] end
  if args[4] ~= "" then wrk.headers["Cookie"] = args[4] end
end

function done(summary, latency, requests)
  local errors = summary.errors
  local line = '{"requests": %d, "microseconds": %d, "mean": %d, "p50": %d, "p90": %d, "p99": %d, '
    .. '"errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n'
  io.write(line:format(
    summary.requests, summary.duration, latency.mean,
    latency:percentile(50), latency:percentile(90), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout
  ))
end
