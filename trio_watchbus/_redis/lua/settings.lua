-- settings HOW NAME VALUE…: the bounds that are stored with the log. Answers with all of them, as they
-- are in SETTINGS, nil where none is stored, after those of the names given whose values are others.
--
-- HOW is `open`: store these, but nothing if one of them is stored with another value; `change`: store
-- them in any case; `keep`: store those that are not.

local SETTINGS = {
  'retain_messages', 'retain_bytes', 'retain_milliseconds', 'retain_per_key', 'retain_keys',
  'retain_kept_bytes', 'max_message_size',
}

function operations.settings()
  local how, added, differing = take(), {}, {}
  while has_more() do
    local name, value = take(), take()
    local stored = call('HGET', FACTS, name)
    if stored and stored ~= value and how ~= 'change' then
      differing[#differing + 1] = name
    elseif stored ~= value then
      added[#added + 1] = name
      added[#added + 1] = value
    end
  end
  if #added > 0 and not (how == 'open' and #differing > 0) then
    call('HSET', FACTS, unpack(added))
  end
  return { differing, call('HMGET', FACTS, unpack(SETTINGS)) }
end
