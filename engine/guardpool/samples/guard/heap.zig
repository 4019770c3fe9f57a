//! Linear memory: one heap for everything, and arenas that are emptied after each call.
//!
//! The host takes its buffers from the heap (`alloc`, `dealloc`): it may keep one pair for the life of the instance or
//! take and give back 4 MiB at every call. Arenas take their chunks from the same heap and give them back, so that
//! after a large job the memory is free for the next one, whoever needs it. Free blocks stand in a list ordered by
//! address and neighbours are joined, so that sizes that come and go do not cut the memory to pieces.

const std = @import("std");

const Header = struct {
    /// Bytes of the block with this header; a multiple of `unit`.
    size: u32,
    state: u32,
    /// The next free block by address; only in a free block.
    next: ?*Header,
    _: u32 = 0,
};

const unit = 16;
const page = 65536;
const used_mark: u32 = 0x67756172;
const free_mark: u32 = 0x66726565;
/// Grow by this much at least: growing is dear for some hosts.
const grow_pages = 4;

extern var __heap_base: u8;

var free_list: ?*Header = null;
var low: usize = 0;
var high: usize = 0;

comptime {
    std.debug.assert(@sizeOf(Header) == unit);
}

/// The bytes of linear memory as it is now.
pub fn memoryBytes() u64 {
    return @as(u64, @wasmMemorySize(0)) * page;
}

/// `len` bytes, aligned to 16, or null when the memory is used up.
pub fn alloc(len: usize) ?[*]u8 {
    if (len > 0x7fff_0000) return null;
    const need: u32 = @intCast(std.mem.alignForward(usize, @max(len, 1), unit) + unit);
    if (low == 0) start();
    if (take(need)) |block| return block;
    if (!grow(need)) return null;
    return take(need);
}

/// Gives a block back. What is no block of this heap, or was given back before, is left alone.
pub fn free(ptr: usize) void {
    if (ptr % unit != 0 or ptr < low + unit or ptr >= high) return;
    const block: *Header = @ptrFromInt(ptr - unit);
    if (block.state != used_mark) return;
    insert(block);
}

fn start() void {
    low = std.mem.alignForward(usize, @intFromPtr(&__heap_base), unit);
    const end = @wasmMemorySize(0) * page;
    high = low;
    if (end >= low + 2 * unit) addRegion(low, end);
}

fn addRegion(from: usize, to: usize) void {
    const block: *Header = @ptrFromInt(from);
    block.size = @intCast(to - from);
    if (to > high) high = to;
    insert(block);
}

fn take(need: u32) ?[*]u8 {
    var link: *?*Header = &free_list;
    while (link.*) |block| : (link = &block.next) {
        if (block.size < need) continue;
        const rest = block.size - need;
        if (rest >= 2 * unit) {
            const tail: *Header = @ptrFromInt(@intFromPtr(block) + need);
            tail.* = .{ .size = rest, .state = free_mark, .next = block.next };
            link.* = tail;
            block.size = need;
        } else {
            link.* = block.next;
        }
        block.state = used_mark;
        return @ptrFromInt(@intFromPtr(block) + unit);
    }
    return null;
}

fn insert(block: *Header) void {
    block.state = free_mark;
    var before: ?*Header = null;
    var after = free_list;
    while (after) |candidate| {
        if (@intFromPtr(candidate) > @intFromPtr(block)) break;
        before = candidate;
        after = candidate.next;
    }
    block.next = after;
    if (before) |left| left.next = block else free_list = block;
    join(block);
    if (before) |left| join(left);
}

fn join(block: *Header) void {
    const after = block.next orelse return;
    if (@intFromPtr(block) + block.size != @intFromPtr(after)) return;
    block.size += after.size;
    block.next = after.next;
    after.state = 0;
}

fn grow(need: u32) bool {
    // The last free block may reach to the end of the memory: then only what it lacks is wanted.
    var lacking: usize = need;
    var last = free_list;
    while (last) |block| : (last = block.next) {
        if (@intFromPtr(block) + block.size == high and high == @wasmMemorySize(0) * page) lacking = need - block.size;
    }
    const exact = (lacking + page - 1) / page;
    for ([_]usize{ @max(exact, grow_pages), exact }) |pages| {
        const old = @wasmMemoryGrow(0, pages);
        if (old < 0) continue;
        const from = @as(usize, @intCast(old)) * page;
        // The very last unit of a 4 GiB memory has no address after it: it is left out.
        const to = @min(@as(u64, from) + @as(u64, pages) * page, 0xffff_fff0);
        addRegion(from, @intCast(to));
        return true;
    }
    return false;
}

/// A bump allocator over chunks of the heap.
pub const Arena = struct {
    chunk: ?*Chunk = null,
    used: usize = 0,
    /// Bytes handed out since the last `reset`.
    total: usize = 0,

    const Chunk = struct { older: ?*Chunk, size: usize };
    const first_chunk = 64 * 1024 - 2 * unit;
    const largest_chunk = 512 * 1024 - 2 * unit;
    pub const Error = std.mem.Allocator.Error;

    pub fn bytes(self: *Arena, len: usize, alignment: usize) Error![]u8 {
        if (self.chunk) |chunk| {
            const at = std.mem.alignForward(usize, self.used, alignment);
            if (at <= chunk.size and len <= chunk.size - at) {
                self.used = at + len;
                self.total += len;
                return self.base(chunk)[at..][0..len];
            }
        }
        try self.addChunk(len);
        self.used = len;
        self.total += len;
        return self.base(self.chunk.?)[0..len];
    }

    pub fn create(self: *Arena, comptime T: type) Error!*T {
        const memory = try self.bytes(@sizeOf(T), @alignOf(T));
        return @ptrCast(@alignCast(memory.ptr));
    }

    pub fn list(self: *Arena, comptime T: type, n: usize) Error![]T {
        const memory = try self.bytes(std.math.mul(usize, @sizeOf(T), n) catch return error.OutOfMemory, @alignOf(T));
        return @as([*]T, @ptrCast(@alignCast(memory.ptr)))[0..n];
    }

    pub fn dupe(self: *Arena, text: []const u8) Error![]const u8 {
        const copy = try self.bytes(text.len, 1);
        @memcpy(copy, text);
        return copy;
    }

    /// Gives the end of the latest allocation back: `memory` keeps its first `len` bytes.
    pub fn shrink(self: *Arena, memory: []u8, len: usize) []const u8 {
        if (self.chunk) |chunk| {
            if (@intFromPtr(self.base(chunk)) + self.used == @intFromPtr(memory.ptr) + memory.len) {
                self.used -= memory.len - len;
            }
        }
        return memory[0..len];
    }

    /// Empties the arena; one small chunk stays for the next call.
    pub fn reset(self: *Arena) void {
        self.used = 0;
        self.total = 0;
        while (self.chunk) |chunk| {
            if (chunk.older == null and chunk.size <= first_chunk) return;
            self.chunk = chunk.older;
            free(@intFromPtr(chunk));
        }
    }

    /// Empties the arena and keeps nothing.
    pub fn release(self: *Arena) void {
        while (self.chunk) |chunk| {
            self.chunk = chunk.older;
            free(@intFromPtr(chunk));
        }
        self.* = .{};
    }

    pub fn allocator(self: *Arena) std.mem.Allocator {
        return .{ .ptr = self, .vtable = &vtable };
    }

    fn base(_: *Arena, chunk: *Chunk) [*]u8 {
        return @as([*]u8, @ptrCast(chunk)) + unit;
    }

    fn addChunk(self: *Arena, len: usize) Error!void {
        const last = if (self.chunk) |chunk| chunk.size else first_chunk / 2;
        const usual = @min(@max(last * 2, first_chunk), largest_chunk);
        const size = @max(usual, len);
        // When memory is short, a chunk of just this size may still be had.
        const memory = alloc(size + unit) orelse (alloc(len + unit) orelse return error.OutOfMemory);
        const chunk: *Chunk = @ptrCast(@alignCast(memory));
        const header: *Header = @ptrFromInt(@intFromPtr(memory) - unit);
        chunk.* = .{ .older = self.chunk, .size = header.size - 2 * unit };
        self.chunk = chunk;
    }

    const vtable = std.mem.Allocator.VTable{ .alloc = vAlloc, .resize = vResize, .free = vFree };

    fn vAlloc(context: *anyopaque, len: usize, log2_align: u8, _: usize) ?[*]u8 {
        const self: *Arena = @ptrCast(@alignCast(context));
        const memory = self.bytes(len, @as(usize, 1) << @intCast(log2_align)) catch return null;
        return memory.ptr;
    }

    fn vResize(_: *anyopaque, memory: []u8, _: u8, len: usize, _: usize) bool {
        return len <= memory.len;
    }

    fn vFree(_: *anyopaque, _: []u8, _: u8, _: usize) void {}
};
