-- Every request another text, so that no cache answers; SAME=1: the same text each time.
local same = os.getenv("SAME") == "1"
local thread, count = 0, 0

function setup(t)
  t:set("id", thread)
  thread = thread + 1
end

function request()
  count = count + 1
  local text = same and "the same text" or ("text " .. id .. " " .. count)
  local body = '{"text": "' .. text .. '", "labels": ["repair", "billing", "holiday"]}'
  return wrk.format("POST", "/v1/classify", {["Content-Type"] = "application/json"}, body)
end
