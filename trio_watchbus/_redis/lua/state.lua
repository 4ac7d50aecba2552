-- state EPOCH CONNECTING REWRITTEN POSITION…: answers with the facts. EPOCH is begun where there is
-- none, where the message at one of the positions was undone, or where the log's epoch is
-- REWRITTEN, which the caller saw not to go on as it was; that is empty otherwise.
--
-- A server that was restarted, or a replica that took over, may lack the end of the log, and all
-- who knew it may be gone too. So each new connection checks whether somebody vouched for the log
-- on this run of the server. CONNECTING is 1 if the connection is new, else 0. If the message at one
-- of the positions is in the log, it vouches: the process stores nothing before this call, so it
-- knows that message from an earlier run, or this one was vouched for then. Without any, nobody can
-- say whether anything was undone, and EPOCH is begun.

-- Returns the facts after the log was vouched for on this run of the server, or replaced.
local function vouch(held, vouched, candidate)
  local run = current_run()
  if run == '' or run == call('HMGET', FACTS, 'run')[1] then
    return held
  end
  if not vouched then
    return begin(candidate)
  end
  -- If Redis has no memory for it now, the next connection vouches again.
  pcall('HSET', FACTS, 'run', run)
  return held
end

function operations.state()
  local candidate, connecting, rewritten = take(), take() == '1', take()
  local held = facts() or begin(candidate)
  -- Fails where it is no stream.
  call('XLEN', LOG)
  if held.epoch == rewritten then
    held = begin(candidate)
  end
  local vouched = false
  while has_more() do
    local found
    held, found = check_position(held, take(), candidate)
    vouched = vouched or found
  end
  if connecting then
    held = vouch(held, vouched, candidate)
  end
  return answer(held)
end
