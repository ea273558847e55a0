// SPDX-License-Identifier: Apache-2.0

package taskapi

import "context"

// State calls the server's State.
func (c *Client) State(ctx context.Context, r *StateRequest) (*StateResponse, error) {
	return ask(ctx, c, "State", r, new(StateResponse))
}

// Create calls the server's Create.
func (c *Client) Create(ctx context.Context, r *CreateTaskRequest) (*CreateTaskResponse, error) {
	return ask(ctx, c, "Create", r, new(CreateTaskResponse))
}

// Start calls the server's Start.
func (c *Client) Start(ctx context.Context, r *StartRequest) (*StartResponse, error) {
	return ask(ctx, c, "Start", r, new(StartResponse))
}

// Delete calls the server's Delete.
func (c *Client) Delete(ctx context.Context, r *DeleteRequest) (*DeleteResponse, error) {
	return ask(ctx, c, "Delete", r, new(DeleteResponse))
}

// Pids calls the server's Pids.
func (c *Client) Pids(ctx context.Context, r *PidsRequest) (*PidsResponse, error) {
	return ask(ctx, c, "Pids", r, new(PidsResponse))
}

// Pause calls the server's Pause.
func (c *Client) Pause(ctx context.Context, r *PauseRequest) error {
	return c.call(ctx, "Pause", r, new(empty))
}

// Resume calls the server's Resume.
func (c *Client) Resume(ctx context.Context, r *ResumeRequest) error {
	return c.call(ctx, "Resume", r, new(empty))
}

// Checkpoint calls the server's Checkpoint.
func (c *Client) Checkpoint(ctx context.Context, r *CheckpointTaskRequest) error {
	return c.call(ctx, "Checkpoint", r, new(empty))
}

// Kill calls the server's Kill.
func (c *Client) Kill(ctx context.Context, r *KillRequest) error {
	return c.call(ctx, "Kill", r, new(empty))
}

// Exec calls the server's Exec.
func (c *Client) Exec(ctx context.Context, r *ExecProcessRequest) error {
	return c.call(ctx, "Exec", r, new(empty))
}

// ResizePty calls the server's ResizePty.
func (c *Client) ResizePty(ctx context.Context, r *ResizePtyRequest) error {
	return c.call(ctx, "ResizePty", r, new(empty))
}

// CloseIO calls the server's CloseIO.
func (c *Client) CloseIO(ctx context.Context, r *CloseIORequest) error {
	return c.call(ctx, "CloseIO", r, new(empty))
}

// Update calls the server's Update.
func (c *Client) Update(ctx context.Context, r *UpdateTaskRequest) error {
	return c.call(ctx, "Update", r, new(empty))
}

// Wait calls the server's Wait.
func (c *Client) Wait(ctx context.Context, r *WaitRequest) (*WaitResponse, error) {
	return ask(ctx, c, "Wait", r, new(WaitResponse))
}

// Stats calls the server's Stats.
func (c *Client) Stats(ctx context.Context, r *StatsRequest) (*StatsResponse, error) {
	return ask(ctx, c, "Stats", r, new(StatsResponse))
}

// Connect calls the server's Connect.
func (c *Client) Connect(ctx context.Context, r *ConnectRequest) (*ConnectResponse, error) {
	return ask(ctx, c, "Connect", r, new(ConnectResponse))
}

// Shutdown calls the server's Shutdown.
func (c *Client) Shutdown(ctx context.Context, r *ShutdownRequest) error {
	return c.call(ctx, "Shutdown", r, new(empty))
}

func ask[R message](ctx context.Context, c *Client, method string, q message, r R) (R, error) {
	if err := c.call(ctx, method, q, r); err != nil {
		var none R
		return none, err
	}
	return r, nil
}
