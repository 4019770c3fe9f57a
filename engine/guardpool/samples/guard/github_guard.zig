//! A guard for the tools of GitHub's MCP server: the functions that a host calls.
//!
//! A call reads its input, decides, and writes its answer into the host's buffer; whatever it needs meanwhile is in one
//! arena, emptied at the next call. What lives longer is the policy (from `label_agent`) and a table of repositories
//! known to be public or private (from the backend). See README.md for the rules and the codes.

const std = @import("std");
const heap = @import("heap.zig");
const host = @import("host.zig");
const json = @import("json.zig");
const labels = @import("labels.zig");
const outs = @import("out.zig");
const policies = @import("policy.zig");
const response = @import("response.zig");
const rules = @import("rules.zig");
const targets = @import("target.zig");
const tools = @import("tools.zig");
const visibility = @import("visibility.zig");
const Node = json.Node;
const Out = outs.Out;

/// Why a call has no answer. -2 is the contract's: the buffer is too small.
const Code = enum(i32) {
    bad_json = -1,
    bad_policy = -3,
    no_policy = -4,
    out_of_memory = -5,
    no_tool_name = -6,
    bad_buffer = -7,
};

const Failure = error{ BadJson, BadPolicy, NoPolicy, OutOfMemory, NoToolName };

var scratch = heap.Arena{};
/// The policy and the memory it stands in.
var policy_memory = heap.Arena{};
var policy: ?policies.Policy = null;

export fn alloc(size: i32) i32 {
    if (size < 0) return 0;
    const memory = heap.alloc(@intCast(size)) orelse return 0;
    return @bitCast(@as(u32, @intCast(@intFromPtr(memory))));
}

export fn dealloc(ptr: i32, _: i32) void {
    heap.free(@as(u32, @bitCast(ptr)));
}

export fn label_agent(in_ptr: i32, in_len: i32, out_ptr: i32, out_cap: i32) i32 {
    return call("label_agent", agent, in_ptr, in_len, out_ptr, out_cap);
}

export fn label_resource(in_ptr: i32, in_len: i32, out_ptr: i32, out_cap: i32) i32 {
    return call("label_resource", resource, in_ptr, in_len, out_ptr, out_cap);
}

export fn label_response(in_ptr: i32, in_len: i32, out_ptr: i32, out_cap: i32) i32 {
    return call("label_response", responseOf, in_ptr, in_len, out_ptr, out_cap);
}

const Handler = *const fn (root: *const Node, out: *Out) Failure!void;

fn call(name: []const u8, handler: Handler, in_ptr: i32, in_len: i32, out_ptr: i32, out_cap: i32) i32 {
    const input = window(in_ptr, in_len) orelse return refuse(name, .bad_buffer);
    const room = window(out_ptr, out_cap) orelse return refuse(name, .bad_buffer);
    scratch.reset();
    visibility.beginCall();
    host.debug("{s}: {d} bytes in", .{ name, input.len });
    host.debug("{s}: room for {d} bytes", .{ name, room.len });
    var out = Out{ .buffer = room };
    run(input, handler, &out) catch |err| return refuse(name, switch (err) {
        error.BadJson => .bad_json,
        error.BadPolicy => .bad_policy,
        error.NoPolicy => .no_policy,
        error.OutOfMemory => .out_of_memory,
        error.NoToolName => .no_tool_name,
    });
    host.debug("{s}: {d} bytes of scratch, {d} of memory", .{ name, scratch.total, heap.memoryBytes() });
    host.debug("{s}: {d} questions asked", .{ name, visibility.questionsAsked() });
    if (out.len > room.len) {
        host.debug("{s}: the answer wants {d} bytes", .{ name, out.len });
        if (room.len >= 4) std.mem.writeInt(u32, room[0..4], @intCast(out.len), .little);
        return outs.too_small;
    }
    host.debug("{s}: {d} bytes out", .{ name, out.len });
    return @intCast(out.len);
}

fn run(input: []const u8, handler: Handler, out: *Out) Failure!void {
    const parsed = json.parse(&scratch, input) catch |err| return switch (err) {
        error.OutOfMemory => error.OutOfMemory,
        error.Syntax => error.BadJson,
    };
    if (parsed.root.kind != .object) return error.BadJson;
    host.debug("  input: {d} members, {d} nodes kept", .{ parsed.root.b, parsed.nodes });
    return handler(parsed.root, out);
}

fn refuse(name: []const u8, code: Code) i32 {
    host.warning("{s}: refused: {s} ({d})", .{ name, @tagName(code), @intFromEnum(code) });
    // What a refused call took is not kept until the next one.
    scratch.reset();
    return @intFromEnum(code);
}

/// The bytes that the host means, or null where they are not within memory.
fn window(ptr: i32, len: i32) ?[]u8 {
    if (len < 0) return null;
    const start: u64 = @as(u32, @bitCast(ptr));
    if (start + @as(u64, @intCast(len)) > heap.memoryBytes()) return null;
    if (len == 0) return &.{};
    if (start == 0) return null;
    return @as([*]u8, @ptrFromInt(@as(usize, @intCast(start))))[0..@intCast(len)];
}

fn agent(root: *const Node, out: *Out) Failure!void {
    var memory = heap.Arena{};
    const read = policies.read(&memory, root) catch |err| {
        memory.release();
        return err;
    };
    policy_memory.release();
    policy_memory = memory;
    policy = read;
    const now = &policy.?;
    host.debug("  policy: {s} '{s}'", .{ now.kindName(), host.shown(now.token) });
    host.debug("  policy: at least {s}", .{now.min_integrity.name()});
    host.debug("  policy: users: {d} blocked, {d} trusted, bots: {d} trusted", .{
        now.blocked_users.len, now.trusted_users.len, now.trusted_bots.len,
    });
    host.debug("  policy: labels: {d} approve, {d} refuse", .{ now.approval_labels.len, now.refusal_labels.len });
    out.raw("{\"agent\":{\"secrecy\":[");
    for (now.entries, 0..) |*entry, i| {
        out.raw(if (i > 0) ",\"private:" else "\"private:");
        out.escaped(entry.label);
        out.raw("\"");
    }
    out.raw("],\"integrity\":");
    labels.writeLevels(out, now.min_integrity, now.token, now.composite);
    out.raw("},\"difc_mode\":\"filter\",\"normalized_policy\":{\"scope_kind\":");
    out.string(now.kindName());
    out.raw(",\"scope\":");
    out.string(now.token);
    out.raw(",\"min-integrity\":");
    out.string(now.min_integrity.name());
    out.raw("}}");
}

fn contextOf(root: *const Node) Failure!rules.Context {
    const now = if (policy) |*kept| kept else return error.NoPolicy;
    const name = root.string(.tool_name) orelse return error.NoToolName;
    if (name.len == 0) return error.NoToolName;
    const args = root.get(.tool_args);
    const tool = tools.find(name, Node.string(args, .method) orelse "");
    host.debug("  tool: {s}: {s} of {s}", .{ host.shown(name), tool.operation.name(), @tagName(tool.kind) });
    host.debug("  tool: known={} search={}", .{ tool.known, tool.search });
    host.debug("  policy: {s} '{s}'", .{ now.kindName(), host.shown(now.token) });
    host.debug("  policy: {d} entries, at least {s}", .{ now.entries.len, now.min_integrity.name() });
    return .{
        .arena = &scratch,
        .policy = now,
        .tool_name = name,
        .tool = tool,
        .target = targets.Target.read(args, tool.search),
    };
}

fn resource(root: *const Node, out: *Out) Failure!void {
    var context = try contextOf(root);
    const label = rules.ofCall(&context);
    var buffer: [response.description_bytes]u8 = undefined;
    out.raw("{\"resource\":");
    labels.write(out, response.describe(&buffer, &context, null, context.target.repo), &label, context.policy);
    out.raw(",\"operation\":");
    out.string(context.tool.operation.name());
    out.raw("}");
    host.debug("  operation: {s}", .{context.tool.operation.name()});
}

fn responseOf(root: *const Node, out: *Out) Failure!void {
    var context = try contextOf(root);
    response.label(&context, root.get(.tool_result), out);
}
