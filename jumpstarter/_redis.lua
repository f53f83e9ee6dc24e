-- Results in Lua: documents, joins and fences. Stands in front of the scripts of jumpstarter.results.redis and of the broker's settle.
-- All of it works in the database that is selected; whoever calls it selects.

-- Documents

local function is_final(key)
    local head = redis.pcall('GETRANGE', key, 0, 31)
    if type(head) == 'string' and string.find(string.gsub(head, '%s', ''), '^{"status":"SUCCESS"') then
        return true
    end
    return redis.call('EXISTS', key .. '.final') == 1
end

-- Store a result document and announce it, unless a final one is there. Answers what went wrong, or nil.
--
-- ttl is in milliseconds or empty; mark is the key that marks a final document that cannot be told by its bytes, or empty. NX first:
-- nearly every document is the first of its key, and then no look at an older one is needed.
local function store(key, body, ttl, mark)
    local done
    if ttl == '' then done = redis.pcall('SET', key, body, 'NX') else done = redis.pcall('SET', key, body, 'PX', ttl, 'NX') end
    if not done then
        if is_final(key) then return nil end
        if ttl == '' then done = redis.pcall('SET', key, body) else done = redis.pcall('SET', key, body, 'PX', ttl) end
    end
    if done.err then return done.err end
    if mark ~= '' then
        if ttl == '' then done = redis.pcall('SET', mark, '1') else done = redis.pcall('SET', mark, '1', 'PX', ttl) end
        if done.err then return done.err end
    end
    done = redis.pcall('PUBLISH', key, body)
    if type(done) == 'table' and done.err then return done.err end
    return nil
end

-- Joins, where Celery keeps its chords:
--   <join>.j parts   <join>.t late additions to the size   <join>.s size   <join>.d who was counted   <join> the saved group
--   <join>.c who finishes it, then 'done'

-- Seconds for which whoever completes a join has it for itself, then another part may try. Celery: twice its join timeout of 3 s, at
-- least 5.
local JOIN_CLAIM = 30
-- Seconds for which late copies of a part are kept from starting the join anew (Celery's number).
local JOIN_DONE = 300
-- What our claims in .c begin with; those of genuine workers are random.
local OURS = 'jumpstarter:'

-- Count a part: six values from ARGV[at]: join, member, index or '+inf', body, seconds to live or 0, '1' when ordered.
--
-- Answers the bodies in their order where the part completes the join, or completed it before and nobody has finished it; else nil, and
-- a function that takes the part back where it was counted now. Raises before anything is written.
--
-- The claim in .c belongs to a *part*, not to a process: when its worker dies, the redelivered part takes over at once, while any other
-- part (ours, or a genuine worker's) still finds it taken.
local function count_part(at)
    local join, member, index, body, ttl, ordered = unpack(ARGV, at, at + 5)
    local parts, counted, claim = join .. '.j', join .. '.d', join .. '.c'
    local holder = redis.call('GET', claim)
    if holder == 'done' then return nil end
    ordered = ordered == '1'
    local who = member .. ':' .. index
    local is_new = redis.call('SISMEMBER', counted, who) == 0
    local ready = redis.call(ordered and 'ZCARD' or 'LLEN', parts)
    local size, more = redis.call('GET', join .. '.s'), redis.call('GET', join .. '.t')
    if is_new then
        if ordered then
            -- Members of a sorted set are unique: equal bodies of different parts get line ends, which JSON does not mind.
            while redis.call('ZADD', parts, 'NX', index, body) == 0 do body = body .. '\n' end
        else
            redis.call('RPUSH', parts, body)
        end
        redis.call('SADD', counted, who)
        ready = ready + 1
    end
    if tonumber(ttl) > 0 then
        for _, key in ipairs({parts, join .. '.t', join .. '.s', counted, join}) do redis.call('EXPIRE', key, ttl) end
    end
    if size and ready == tonumber(size) + tonumber(more or 0) then
        local mine = OURS .. who
        if holder == mine or redis.call('SET', claim, mine, 'NX', 'EX', JOIN_CLAIM) then
            redis.call('EXPIRE', claim, JOIN_CLAIM)
            return redis.call(ordered and 'ZRANGE' or 'LRANGE', parts, 0, -1)
        end
    end
    return nil, is_new and function()
        if ordered then redis.call('ZREM', parts, body) else redis.call('RPOP', parts) end
        redis.call('SREM', counted, who)
    end
end

-- Whether the join's one thing may still be done by us: nobody has done it, and no genuine worker is at it because our claim ran out.
local function is_open(join)
    local holder = redis.call('GET', join .. '.c')
    if holder then return string.sub(holder, 1, #OURS) == OURS end
    return redis.call('EXISTS', join .. '.s') == 1
end

local function close_join(join)
    redis.call('DEL', join .. '.j', join .. '.t', join .. '.s', join .. '.d')
    redis.call('SET', join .. '.c', 'done', 'EX', JOIN_DONE)
end

-- Fences: jumpstarter.fence.<job> is the least attempt whose writes are taken.

local function is_refused(fence, attempt)
    local least = fence ~= '' and redis.call('GET', fence)
    return least and tonumber(least) > tonumber(attempt)
end
