-- wrk sends the same POST again and again and prints its measurements as one line of JSON.
-- Arguments: the body and its content type.

function init(args)
  wrk.method = "POST"
  wrk.body = args[1] ~= "" and args[1] or nil
  wrk.headers["Content-Type"] = args[2]
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
