-- Posts the body in the file args[1]; args[2] is the mean of exponential pauses in ms, 0 for none.
-- The last line it prints is a JSON document of what happened.

function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  file:close()
  local mean = tonumber(args[2])
  if mean > 0 then
    math.randomseed(11)
    -- Whole milliseconds are what wrk waits: rounded at random, so that the mean stays.
    function delay()
      return math.floor(-mean * math.log(1 - math.random()) + math.random())
    end
  end
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, ' ..
    '"errors": {"refused": %d, "disconnected": %d, "late": %d}}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.status, e.connect + e.read + e.write, e.timeout
  ))
end
