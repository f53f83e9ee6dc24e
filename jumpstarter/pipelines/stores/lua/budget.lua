-- Decide what a budget grants: as jumpstarter/pipelines/windows.py does, at the server's time, in one step.
-- KEYS[1]: the budget's state, packed. ARGV: mode (take, peek, refund, block), the time or '' for the server's, arguments as JSON.
-- Answers {'bounds', now} when the calendar it was given is that of another time; the caller asks again with the right one.

local EXACT, SAME = 128, 1e-6

local function time()
  if ARGV[2] ~= '' then return tonumber(ARGV[2]) end
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1e6
end

local function text(number) return string.format('%.6f', number) end

local now, args = time(), cjson.decode(ARGV[3])
local packed = redis.call('GET', KEYS[1])
local state = packed and cmsgpack.unpack(packed) or {blocked = 0, windows = {}}

local function save()
  redis.call('SET', KEYS[1], cmsgpack.pack(state), 'PX', math.ceil(args.keep * 1000 + math.max(0, state.blocked - now) * 1000))
end

local function around(window, moment)
  for n = 1, #window.bounds - 1 do
    if window.bounds[n] <= moment and moment < window.bounds[n + 1] then return window.bounds[n], window.bounds[n + 1] end
  end
end

local function interval(window, moment)
  if not window.calendar then return window.hold / window.limit end
  local first, last = around(window, moment)
  return (last - first) / window.limit
end

local function look_calendar(kept, window, need)
  local first, last = around(window, now)
  if not kept.start or first > kept.start then kept.start, kept.used = first, 0 end
  local left = math.max(0, window.limit - kept.used)
  return left, left < need and last - now or 0, last
end

local function look_sliding(kept, window, need)
  kept.log = kept.log or {}
  local log, gone = kept.log, 0
  while log[gone + 1] and log[gone + 1][2] + window.hold <= now do gone = gone + 1 end
  if gone > 0 then
    local rest = {}
    for n = gone + 1, #log do rest[#rest + 1] = log[n] end
    kept.log = rest
    log = rest
  end
  local used = 0
  for _, entry in ipairs(log) do used = used + entry[3] end
  local left = math.max(0, window.limit - used)
  local resets, resets_at, lacking = log[1] and log[1][2] + window.hold or now, now, need - left
  for _, entry in ipairs(log) do
    if lacking <= 0 then break end
    lacking = lacking - entry[3]
    resets_at = entry[2] + window.hold
  end
  return left, need > left and resets_at - now or 0, resets
end

local function charge(kept, window, amount)
  if window.calendar then
    kept.used = kept.used + amount
  else
    local log = kept.log
    local last = log[#log]
    if last and (last[2] >= now or (#log >= EXACT and now - last[1] < window.period / EXACT)) then
      last[2], last[3] = math.max(now, last[2]), last[3] + amount
    else
      log[#log + 1] = {now, now, amount}
    end
  end
  if window.smooth then kept.next = now + amount * interval(window, now) end
end

local function refund(kept, window, granted, back)
  local amount = math.min(back, granted)
  if amount <= 0 then return end
  if window.calendar then
    if kept.start and args.at >= kept.start then kept.used = math.max(0, kept.used - amount) end
  else
    local rest, found = {}, false
    for _, entry in ipairs(kept.log or {}) do
      if not found and entry[1] - SAME <= args.at and args.at <= entry[2] + SAME then
        entry[3] = math.max(0, entry[3] - amount)
        found = true
      end
      if entry[3] > 0 then rest[#rest + 1] = entry end
    end
    kept.log = rest
  end
  if window.smooth and not (window.calendar and args.at < (kept.start or math.huge)) then
    local each = interval(window, args.at)
    if math.abs((kept.next or 0) - (args.at + granted * each)) < SAME then kept.next = args.at + (granted - amount) * each end
  end
end

if ARGV[1] == 'block' then
  state.blocked = math.max(state.blocked, args['until'] or now + args.seconds)
  save()
  return {'ok', text(now)}
end

for _, window in ipairs(args.windows) do
  if window.calendar and not around(window, now) then return {'bounds', text(now)} end
end

if ARGV[1] == 'refund' then
  for _, window in ipairs(args.windows) do
    local kept = state.windows[window.key]
    if kept then refund(kept, window, args.granted[window.unit] or 0, args.back[window.unit] or 0) end
  end
  save()
  return {'ok', text(now)}
end

local blocked, wait, looks, free = math.max(0, state.blocked - now), 0, {}, {}
for n, window in ipairs(args.windows) do
  local kept = state.windows[window.key] or {}
  state.windows[window.key] = kept
  local need = math.max(1, args.least[window.unit] or 1)
  local left, own, resets = (window.calendar and look_calendar or look_sliding)(kept, window, need)
  local spacing = math.max((kept.next or 0) - now, blocked, 0)
  own = math.max(own, spacing)
  free[n] = spacing > 0 and 0 or left
  if ARGV[1] == 'peek' or args.want[window.unit] then wait = math.max(wait, own) end
  looks[n] = {left, free[n], text(own), text(resets)}
end

local granted = {}
if ARGV[1] == 'take' and wait == 0 and blocked == 0 then
  for unit, amount in pairs(args.want) do
    for n, window in ipairs(args.windows) do
      if window.unit == unit then amount = math.min(amount, free[n]) end
    end
    granted[#granted + 1] = {unit, amount}
    for _, window in ipairs(args.windows) do
      if window.unit == unit then charge(state.windows[window.key], window, amount) end
    end
  end
  save()
end
return {'ok', text(now), text(math.max(wait, blocked)), looks, granted}
