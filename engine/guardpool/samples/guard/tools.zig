//! The tools of GitHub's MCP server: what each does and what it is about.

const std = @import("std");

pub const Operation = enum {
    read,
    write,
    read_write,

    pub fn name(self: Operation) []const u8 {
        return switch (self) {
            .read => "read",
            .write => "write",
            .read_write => "read-write",
        };
    }
};

/// What a tool's result is made of; the rules go by it.
pub const Kind = enum {
    issue,
    pull,
    commit,
    /// What anybody may say: comments, reviews, discussions, and what a pull request proposes.
    comment,
    discussion,
    file,
    code,
    repository,
    /// What only who may push can make: branches, tags, releases, labels, runs of workflows.
    metadata,
    /// Findings about a repository's security, private whatever the repository is.
    alert,
    advisory,
    collaborator,
    /// Public and curated by GitHub: the advisory database, profiles of users and organisations.
    directory,
    gist,
    notification,
    /// About the user whose token is used.
    account,
    project,
    unknown,
};

pub const Tool = struct {
    operation: Operation,
    kind: Kind,
    /// Its items may come from any repository.
    search: bool = false,
    known: bool = true,
};

pub const unknown = Tool{ .operation = .write, .kind = .unknown, .known = false };

fn reads(kind: Kind) Tool {
    return .{ .operation = .read, .kind = kind };
}

fn searches(kind: Kind) Tool {
    return .{ .operation = .read, .kind = kind, .search = true };
}

fn writes(kind: Kind) Tool {
    return .{ .operation = .write, .kind = kind };
}

fn changes(kind: Kind) Tool {
    return .{ .operation = .read_write, .kind = kind };
}

const table = std.StaticStringMap(Tool).initComptime(.{
    .{ "issue_read", reads(.issue) },
    .{ "get_issue", reads(.issue) },
    .{ "list_issues", reads(.issue) },
    .{ "list_sub_issues", reads(.issue) },
    .{ "search_issues", searches(.issue) },
    .{ "get_issue_comments", reads(.comment) },
    .{ "pull_request_read", reads(.pull) },
    .{ "get_pull_request", reads(.pull) },
    .{ "list_pull_requests", reads(.pull) },
    .{ "search_pull_requests", searches(.pull) },
    .{ "get_pull_request_diff", reads(.comment) },
    .{ "get_pull_request_files", reads(.comment) },
    .{ "get_pull_request_comments", reads(.comment) },
    .{ "get_pull_request_reviews", reads(.comment) },
    .{ "get_pull_request_status", reads(.metadata) },
    .{ "get_commit", reads(.commit) },
    .{ "list_commits", reads(.commit) },
    .{ "search_commits", searches(.commit) },
    .{ "get_file_contents", reads(.file) },
    .{ "get_file_blame", reads(.file) },
    .{ "search_code", searches(.code) },
    .{ "get_repository", reads(.repository) },
    .{ "search_repositories", searches(.repository) },
    .{ "get_repository_tree", reads(.metadata) },
    .{ "list_branches", reads(.metadata) },
    .{ "list_tags", reads(.metadata) },
    .{ "get_tag", reads(.metadata) },
    .{ "list_releases", reads(.metadata) },
    .{ "get_latest_release", reads(.metadata) },
    .{ "get_release_by_tag", reads(.metadata) },
    .{ "get_label", reads(.metadata) },
    .{ "list_label", reads(.metadata) },
    .{ "list_issue_types", reads(.directory) },
    .{ "actions_get", reads(.metadata) },
    .{ "actions_list", reads(.metadata) },
    .{ "list_workflows", reads(.metadata) },
    .{ "list_workflow_runs", reads(.metadata) },
    .{ "get_workflow_run", reads(.metadata) },
    .{ "list_workflow_jobs", reads(.metadata) },
    .{ "list_workflow_run_artifacts", reads(.metadata) },
    .{ "get_job_logs", reads(.metadata) },
    .{ "list_discussions", reads(.discussion) },
    .{ "get_discussion", reads(.discussion) },
    .{ "get_discussion_comments", reads(.comment) },
    .{ "list_discussion_categories", reads(.metadata) },
    .{ "list_code_scanning_alerts", reads(.alert) },
    .{ "get_code_scanning_alert", reads(.alert) },
    .{ "list_secret_scanning_alerts", reads(.alert) },
    .{ "get_secret_scanning_alert", reads(.alert) },
    .{ "list_dependabot_alerts", reads(.alert) },
    .{ "get_dependabot_alert", reads(.alert) },
    .{ "list_repository_security_advisories", reads(.advisory) },
    .{ "list_org_repository_security_advisories", reads(.advisory) },
    .{ "list_global_security_advisories", reads(.directory) },
    .{ "get_global_security_advisory", reads(.directory) },
    .{ "list_repository_collaborators", reads(.collaborator) },
    .{ "search_users", reads(.directory) },
    .{ "search_orgs", reads(.directory) },
    .{ "list_gists", reads(.gist) },
    .{ "get_gist", reads(.gist) },
    .{ "list_notifications", reads(.notification) },
    .{ "get_notification_details", reads(.notification) },
    .{ "get_me", reads(.account) },
    .{ "get_teams", reads(.account) },
    .{ "get_team_members", reads(.account) },
    .{ "list_starred_repositories", reads(.account) },
    .{ "projects_list", reads(.project) },
    .{ "projects_get", reads(.project) },
    .{ "list_projects", reads(.project) },
    .{ "get_project", reads(.project) },
    .{ "list_project_items", reads(.project) },

    .{ "create_issue", writes(.issue) },
    .{ "add_issue_comment", writes(.comment) },
    .{ "assign_copilot_to_issue", writes(.issue) },
    .{ "create_pull_request", writes(.pull) },
    .{ "request_copilot_review", writes(.pull) },
    .{ "add_comment_to_pending_review", writes(.comment) },
    .{ "add_reply_to_pull_request_comment", writes(.comment) },
    .{ "create_branch", writes(.metadata) },
    .{ "create_or_update_file", writes(.file) },
    .{ "delete_file", writes(.file) },
    .{ "push_files", writes(.file) },
    .{ "label_write", writes(.metadata) },
    .{ "create_release", writes(.metadata) },
    .{ "actions_run_trigger", writes(.metadata) },
    .{ "run_workflow", writes(.metadata) },
    .{ "cancel_workflow_run", writes(.metadata) },
    .{ "rerun_workflow_run", writes(.metadata) },
    .{ "rerun_failed_jobs", writes(.metadata) },
    .{ "create_repository", writes(.repository) },
    .{ "fork_repository", writes(.repository) },
    .{ "create_gist", writes(.gist) },
    .{ "dismiss_notification", writes(.notification) },
    .{ "mark_all_notifications_read", writes(.notification) },
    .{ "star_repository", writes(.account) },
    .{ "unstar_repository", writes(.account) },
    .{ "projects_write", writes(.project) },
    .{ "lock_issue", writes(.issue) },
    .{ "unlock_issue", writes(.issue) },

    .{ "issue_write", changes(.issue) },
    .{ "update_issue", changes(.issue) },
    .{ "sub_issue_write", changes(.issue) },
    .{ "add_sub_issue", changes(.issue) },
    .{ "remove_sub_issue", changes(.issue) },
    .{ "reprioritize_sub_issue", changes(.issue) },
    .{ "update_pull_request", changes(.pull) },
    .{ "update_pull_request_branch", changes(.pull) },
    .{ "merge_pull_request", changes(.pull) },
    .{ "pull_request_review_write", changes(.comment) },
    .{ "create_pull_request_review", changes(.comment) },
    .{ "submit_pending_pull_request_review", changes(.comment) },
    .{ "delete_pending_pull_request_review", changes(.comment) },
    .{ "update_gist", changes(.gist) },
    .{ "manage_notification_subscription", changes(.notification) },
    .{ "manage_repository_notification_subscription", changes(.notification) },
});

/// The tool of this name; some tools do different things by their argument `method`.
pub fn find(name: []const u8, method: []const u8) Tool {
    var tool = table.get(name) orelse return unknown;
    if (tool.operation != .read or method.len == 0 or std.mem.eql(u8, method, "get")) return tool;
    if (std.mem.eql(u8, name, "issue_read")) tool.kind = kindOf(&issue_methods, method);
    if (std.mem.eql(u8, name, "pull_request_read")) tool.kind = kindOf(&pull_methods, method);
    return tool;
}

const Method = struct { []const u8, Kind };

const issue_methods = [_]Method{
    .{ "get_comments", .comment },
    .{ "get_sub_issues", .issue },
    .{ "get_labels", .metadata },
};

const pull_methods = [_]Method{
    .{ "get_diff", .comment },
    .{ "get_files", .comment },
    .{ "get_comments", .comment },
    .{ "get_review_comments", .comment },
    .{ "get_reviews", .comment },
    .{ "get_commits", .comment },
    .{ "get_status", .metadata },
};

fn kindOf(methods: []const Method, method: []const u8) Kind {
    for (methods) |entry| if (std.mem.eql(u8, entry[0], method)) return entry[1];
    return .comment; // what is not known is what anybody may say
}
